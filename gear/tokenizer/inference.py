"""Load a tokenizer; encode and decode whole data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import require_file
from gear.core.model_folder import load_model, load_weights, read_shape
from gear.core.ranks import ALONE, Ranks
from gear.data.images import Pixels, to_pixels, to_tensor
from gear.data.row_selection import BATCH, batches
from gear.tokenizer.config import TokenizerConfig, TokenizerShape
from gear.tokenizer.model import Tokenizer

PIXELS_AT_ONCE = 1 << 19  # 8 images of 256 x 256: pixels that the tokenizer sees at a time, at most


def images_at_once(side: int) -> int:
    """Return how many images of `side` x `side` pixels pass through the tokenizer at a time.

    >>> [images_at_once(side) for side in (32, 64, 256, 1024)]
    [128, 128, 8, 1]
    """
    return max(1, min(BATCH, PIXELS_AT_ONCE // side**2))


def encode_images(tokenizer: Tokenizer, pixels: Pixels, ranks: Ranks = ALONE) -> np.ndarray:
    """Return token indices of images, (N, L) int64, in raster order; ranks share the work."""

    @torch.inference_mode()
    def encode(part: slice) -> np.ndarray:
        images = pixels[part]
        pieces = batches(len(images), images_at_once(images.shape[1]))
        indices = [
            tokenizer.encode(to_tensor(images[piece], tokenizer)).indices for piece in pieces
        ]
        return torch.cat(indices).cpu().numpy()

    return np.concatenate(list(ranks.map(encode, batches(len(pixels)))))


def decode_tokens(tokenizer: Tokenizer, tokens_NL: np.ndarray, ranks: Ranks = ALONE) -> np.ndarray:
    """Return decoded images, (N, H, W, 3) uint8; ranks share the work."""
    return np.concatenate(list(_decoded_batches(tokenizer, tokens_NL, ranks)))


def decoded_images(
    tokenizer: Tokenizer, tokens_NL: np.ndarray, ranks: Ranks = ALONE
) -> Iterator[np.ndarray]:
    """Yield decoded images, (H, W, 3) uint8; one batch per rank is in memory at a time."""
    for images in _decoded_batches(tokenizer, tokens_NL, ranks):
        yield from images


def _decoded_batches(
    tokenizer: Tokenizer, tokens_NL: np.ndarray, ranks: Ranks
) -> Iterator[np.ndarray]:
    device = next(tokenizer.parameters()).device
    at_once = images_at_once(round(tokens_NL.shape[1] ** 0.5) * tokenizer.config.factor)

    @torch.inference_mode()
    def decode(part: slice) -> np.ndarray:
        tokens = torch.from_numpy(tokens_NL[part]).to(device)
        pieces = tokens.split(at_once)
        return np.concatenate([to_pixels(tokenizer.decode_indices(piece)) for piece in pieces])

    return ranks.map(decode, batches(len(tokens_NL)))


def load_tokenizer(folder: Path, codes: int | None = None) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder, on CPU, in eval mode.

    Args:
        folder: The folder.
        codes: The setting tokenizer.codes, if the tokenizer must have as many.

    Raises:
        InputError: if the folder holds no tokenizer, or one of another codebook size.
    """
    shape, _ = read_shape(folder, "tokenizer", TokenizerShape)
    if codes is not None and shape.codes != codes:
        raise InputError(
            f"{folder}: it has {shape.codes} codes and tokenizer.codes is {codes}: "
            "run the stage that makes it with `dvc repro`"
        )
    return load_model(lambda: Tokenizer(shape), folder)


def start_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Return a new tokenizer, or the one that `tokenizer.init` names.

    Raises:
        InputError: if that is absent, or has another sha256 or another shape.
    """
    tokenizer, init = Tokenizer(config), config.init
    if not init.path:
        return tokenizer
    remedy = "name the model.safetensors that `gear import` wrote"
    file = require_file(init.path, init.sha256, "tokenizer.init", remedy)
    saved, _ = read_shape(file.parent, "tokenizer", TokenizerShape)
    shape = TokenizerShape.pick(config.model_dump(mode="json"))
    for key, wanted in shape.model_dump(mode="json").items():
        if (present := saved.model_dump(mode="json")[key]) != wanted:
            raise InputError(
                f"tokenizer.init: {file} has {key} {present}, params.yaml says {wanted}"
            )
    load_weights(tokenizer, file.parent)
    return tokenizer
