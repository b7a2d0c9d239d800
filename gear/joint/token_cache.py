"""Cache the tokens of a frozen tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch.distributed as dist

from gear.data.array_file import new_array_file
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer
from gear.training.distributed import DistributedContext
from gear.training.fingerprint import code_hashes, content_hash

LARGEST_UINT16_CODEBOOK = 1 << 16
CODE = ("data", "nn", "tokenizer", "joint/token_cache.py")  # that decides what tokens come out


def cached_tokens(
    tokenizer: Tokenizer,
    split: Split,
    context: DistributedContext,
    *,
    cache: Path,
    contents: tuple[Path, ...],
    grid: int,
    flip: bool,
    portable: bool,
) -> np.ndarray:
    """Return the tokens of a split by row and view, (N, views, L); view 1 is the mirror image.

    Mirroring is the only augmentation, so two views are all that a training can ask for. Ranks
    share the work; rank zero writes. Later calls read the file, unless it is damaged.

    Args:
        tokenizer: The frozen tokenizer.
        split: The images.
        context: This rank.
        cache: Folder of the cache file, whose name has a hash of all that tokens depend on.
        contents: The images and the tokenizer's weights, files or folders.
        grid: Side of the token grid.
        flip: Whether images are mirrored.
        portable: Whether the training computes in portable mode.
    """
    views = 2 if flip else 1
    decides = {
        "contents": content_hash(*contents),
        "code": code_hashes(CODE),
        "torch": version("torch"),
        "device": context.device.type,
        "portable": portable,
        "views": views,
    }
    name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    file = cache / f"{name}.npy"
    dtype = np.uint16 if tokenizer.config.codes <= LARGEST_UINT16_CODEBOOK else np.int32

    def encode(part: slice) -> np.ndarray:
        pixels = split[part]
        seen = [pixels, np.ascontiguousarray(pixels[:, :, ::-1])][:views]
        return np.stack([encode_images(tokenizer, view) for view in seen], axis=1).astype(dtype)

    shape = (len(split), views, grid**2)
    (is_usable,) = context.map(lambda kept: _load(kept, shape, dtype) is not None, [file])
    if not is_usable:
        parts = list(batches(len(split)))
        tokens = None
        if context.is_rank_zero:
            cache.mkdir(parents=True, exist_ok=True)
            tokens = new_array_file(file.with_suffix(".partial"), dtype, shape)
        for part, found in zip(parts, context.map(encode, parts), strict=True):
            if tokens is not None:
                tokens[part] = found
        if tokens is not None:
            tokens.flush()
            file.with_suffix(".partial").replace(file)
    if context.is_rank_zero:
        os.utime(file)  # `gear states prune` keeps the file that was used last
    dist.barrier()
    result: np.ndarray = np.load(file, mmap_mode="r")
    return result


def _load(file: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    """Return the tokens of a cache file; None if it is absent or damaged."""
    try:
        tokens: np.ndarray = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return tokens if (tokens.shape, tokens.dtype) == (shape, np.dtype(dtype)) else None
