"""Choose the device to compute on, by `host.device`."""

from __future__ import annotations

import os

import torch

from gear.core.errors import InputError
from gear.core.host_config import HostConfig


def pick_device(host: HostConfig) -> torch.device:
    """Return the device of this process: its own GPU under torchrun, the first GPU, or the CPU.

    Raises `InputError` where `host.device` is cuda and there is none.
    """
    if host.device == "cpu" or not torch.cuda.is_available():
        if host.device == "cuda":
            raise InputError(
                "host.device is cuda and torch sees no GPU: set host.device to auto or cpu"
            )
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
