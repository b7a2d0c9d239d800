"""Where to compute: `run.device`, one rule for every stage."""

from __future__ import annotations

import os

import torch

from gear.core.errors import InputError
from gear.params import Config


def pick_device(config: Config) -> torch.device:
    """This process's device: its own GPU under torchrun, the first one alone, else the CPU.

    Raises `InputError` where `run.device` is cuda and there is none.
    """
    if config.run.device == "cpu" or not torch.cuda.is_available():
        if config.run.device == "cuda":
            raise InputError(
                "run.device is cuda and torch sees no GPU: set run.device to auto or cpu"
            )
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
