"""Tokens of a frozen tokenizer, encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.distributed as dist

from gear import paths
from gear.data.rows import batches
from gear.data.shards import Split
from gear.params import Config
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer
from gear.training.distributed import DistributedContext
from gear.training.fingerprint import fingerprint


def cached_tokens(
    config: Config, world: DistributedContext, tokenizer: Tokenizer, folder: Path, split: Split
) -> np.ndarray:
    """Tokens of the training split by the frozen tokenizer in `folder`, (N, views, L), encoded once.

    The file is named by the contents it follows from; ranks encode their shares of it. Mirroring is the only augmentation, so
    two views hold everything a training can ask for.
    """
    views = (False, True) if config.data.flip else (False,)
    name = fingerprint(
        {"views": len(views), "device": world.device.type},
        [paths.SHARDS, folder / "model.safetensors"],
    )
    file = paths.WORK / "tokens" / f"{name}.npy"
    if not file.exists():
        draft = file.with_suffix(".partial")
        if world.is_rank_zero:
            file.parent.mkdir(parents=True, exist_ok=True)
            shape, dtype = (
                (len(split), len(views), config.grid**2),
                np.uint16 if config.tokenizer.codes <= 65536 else np.int32,
            )
            np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=shape).flush()
        dist.barrier()
        cache = np.load(draft, mmap_mode="r+")
        for part in list(batches(len(split)))[world.rank :: world.size]:
            pixels = split[part]
            for view, mirrored in enumerate(views):
                cache[part, view] = encode_images(
                    tokenizer, np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels
                )
        cache.flush()
        dist.barrier()
        if world.is_rank_zero:
            draft.replace(file)
    dist.barrier()
    return np.load(file, mmap_mode="r")
