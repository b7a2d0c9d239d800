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
from gear.data.row_selection import batches
from gear.tokenizer.config import TokenizerConfig, TokenizerShape
from gear.tokenizer.model import Tokenizer


def encode_images(tokenizer: Tokenizer, pixels: Pixels, ranks: Ranks = ALONE) -> np.ndarray:
    """Return token indices of images, (N, L) int64, in raster order; ranks share the work."""

    @torch.inference_mode()
    def encode(part: slice) -> np.ndarray:
        indices: torch.Tensor = tokenizer.encode(to_tensor(pixels[part], tokenizer)).indices
        return indices.cpu().numpy()

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

    @torch.inference_mode()
    def decode(part: slice) -> np.ndarray:
        return to_pixels(tokenizer.decode_indices(torch.from_numpy(tokens_NL[part]).to(device)))

    return ranks.map(decode, batches(len(tokens_NL)))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder, on CPU, in eval mode. Raises `InputError`."""
    shape, _ = read_shape(folder, "tokenizer", TokenizerShape)
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
