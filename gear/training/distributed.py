"""Join the process group, and describe this process: rank, number of ranks and device."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from gear import paths
from gear.core.device import pick_device
from gear.core.host_config import HostConfig
from gear.core.ranks import Ranks

CPU = torch.device("cpu")


@dataclass(frozen=True)
class DistributedContext(Ranks):
    """Rank and device of this process, and the number of ranks of its training."""

    device: torch.device = CPU


def join_process_group(host: HostConfig, seed: int) -> DistributedContext:
    """Initialise the process group (gloo on CPU, NCCL on GPU) and seed torch."""
    device = pick_device(host)
    cuda = device.type == "cuda"
    backend = "nccl" if cuda else "gloo"
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    if cuda:
        _record_collectives()
    import deepspeed
    import deepspeed.ops

    if not cuda:  # this op is compiled at start-up for 50 s and saves nothing on one host
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for name in ("DeepSpeed", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not dist.is_initialized() and "RANK" not in os.environ:  # not under torchrun: one rank
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it
        own = device if cuda else None
        store = dist.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1, device_id=own)
    timeout = timedelta(seconds=host.rank_timeout)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=timeout)
    torch.manual_seed(seed)
    # on a GPU, attention's backward pass is deterministic only if this raises instead of warning
    torch.use_deterministic_algorithms(True, warn_only=not cuda)
    # filling would cost half a step's time, and no code here reads uninitialized memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if cuda:
        torch.cuda.set_device(device)
    return DistributedContext(dist.get_rank(), dist.get_world_size(), device, timeout=timeout)


def _record_collectives() -> None:
    """Let PyTorch's flight recorder dump each rank's last collectives if one of them hangs.

    `torchfrtrace` reads the files. Environment variables that are already set are kept.
    """
    recorded = {
        "TORCH_FR_BUFFER_SIZE": "2000",  # collectives
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(paths.LOGS.absolute() / "nccl-rank-"),
    }
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    for name, value in recorded.items():
        os.environ.setdefault(name, value)
