"""Choose the device to compute on, by `host.device`."""

from __future__ import annotations

import os

import torch

from gear.core.errors import InputError
from gear.core.host_config import HostConfig


def pick_device(host: HostConfig) -> torch.device:
    """Return the device of this process: its own GPU as a rank, the first GPU, or the CPU.

    A rank that sees a single GPU, as srun's `--gpus-per-task 1` has it, takes that.

    On a GPU, results repeat: cuBLAS gets the workspace without which its sums have no fixed order,
    and fp32 convolutions are not rounded to TF32, as matrix products are not by PyTorch's default.

    Raises `InputError` where `host.device` is cuda and there is none.
    """
    if host.device == "cpu" or not torch.cuda.is_available():
        if host.device == "cuda":
            raise InputError(
                "host.device is cuda and torch sees no GPU: set host.device to auto or cpu"
            )
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = False
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % torch.cuda.device_count())
