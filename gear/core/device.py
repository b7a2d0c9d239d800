"""Select the device that the setting `host.device` asks for."""

from __future__ import annotations

import os

import torch

from gear.core.errors import InputError
from gear.core.host_config import HostConfig


def pick_device(host: HostConfig) -> torch.device:
    """Return the device of this process: the GPU of its local rank, the first GPU, or the CPU.

    A rank that sees only one GPU, as with srun's `--gpus-per-task 1`, takes that one.

    On a GPU, this makes results reproducible: cuBLAS gets the workspace that fixes the order of its
    sums. TF32 is switched off for convolutions; for matrix products PyTorch has it off by default.

    Raises:
        InputError: if `host.device` is cuda and torch sees no GPU.
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
