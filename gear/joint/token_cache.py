"""Tokens of a frozen tokenizer, encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.distributed as dist

from gear.data.array_file import new_array_file
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer
from gear.training.distributed import DistributedContext
from gear.training.fingerprint import content_hash

LARGEST_UINT16_CODEBOOK = 1 << 16


def cached_tokens(
    tokenizer: Tokenizer,
    split: Split,
    context: DistributedContext,
    *,
    cache: Path,
    contents: tuple[Path, ...],
    grid: int,
    flip: bool,
) -> np.ndarray:
    """Return the tokens of a split by row and view, (N, views, L); view 1 is the mirror image.

    Mirroring is the only augmentation, so that two views hold everything a training can ask for.
    Ranks encode their shares of the file.

    Args:
        tokenizer: The frozen tokenizer.
        split: The images.
        context: This rank.
        cache: Folder of the file, which is named by the contents that it follows from.
        contents: Those files or folders: the images and the tokenizer's weights.
        grid: Side of the token grid.
        flip: Whether images are mirrored.
    """
    views = (False, True) if flip else (False,)
    file = cache / f"{content_hash(*contents)}-{len(views)}-{context.device.type}.npy"
    if not file.exists():
        draft = file.with_suffix(".partial")
        if context.is_rank_zero:
            cache.mkdir(parents=True, exist_ok=True)
            shape = (len(split), len(views), grid**2)
            small = tokenizer.config.codes <= LARGEST_UINT16_CODEBOOK
            dtype = np.uint16 if small else np.int32
            new_array_file(draft, dtype, shape).flush()
        dist.barrier()
        tokens = np.load(draft, mmap_mode="r+")
        for part in list(batches(len(split)))[context.rank :: context.size]:
            pixels = split[part]
            for view, mirrored in enumerate(views):
                images = np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels
                tokens[part, view] = encode_images(tokenizer, images)
        tokens.flush()
        dist.barrier()
        if context.is_rank_zero:
            draft.replace(file)
    dist.barrier()
    result: np.ndarray = np.load(file, mmap_mode="r")
    return result
