"""Choose the device to compute on, by `host.device`."""

from __future__ import annotations

import os

import torch

from gear.core.errors import InputError
from gear.core.host_config import HostConfig


def pick_device(host: HostConfig) -> torch.device:
    """Return the device of this process: its own GPU as a rank, the first GPU, or the CPU.

    A rank that sees a single GPU, as srun's `--gpus-per-task 1` has it, takes that.

    Raises `InputError` where `host.device` is cuda and there is none.
    """
    if host.device == "cpu" or not torch.cuda.is_available():
        if host.device == "cuda":
            raise InputError(
                "host.device is cuda and torch sees no GPU: set host.device to auto or cpu"
            )
        return torch.device("cpu")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % torch.cuda.device_count())
