"""Load a tokenizer; encode and decode whole data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import require_file
from gear.core.model_folder import load_weights, read_shape
from gear.data.images import Pixels, to_pixels, to_tensor
from gear.data.row_selection import batches
from gear.tokenizer.config import TokenizerConfig, TokenizerShape
from gear.tokenizer.model import Tokenizer


@torch.inference_mode()
def encode_images(tokenizer: Tokenizer, pixels: Pixels) -> np.ndarray:
    """Return token indices of images, (N, L) int64, in raster order."""
    return np.concatenate(
        [
            tokenizer.encode(to_tensor(pixels[part], tokenizer)).indices.cpu().numpy()
            for part in batches(len(pixels))
        ]
    )


def decode_tokens(tokenizer: Tokenizer, tokens_NL: np.ndarray) -> np.ndarray:
    """Return decoded images, (N, H, W, 3) uint8."""
    return np.concatenate(list(_decoded_batches(tokenizer, tokens_NL)))


def decoded_images(tokenizer: Tokenizer, tokens_NL: np.ndarray) -> Iterator[np.ndarray]:
    """Yield decoded images, (H, W, 3) uint8; one batch is held at a time."""
    for images in _decoded_batches(tokenizer, tokens_NL):
        yield from images


def _decoded_batches(tokenizer: Tokenizer, tokens_NL: np.ndarray) -> Iterator[np.ndarray]:
    device = next(tokenizer.parameters()).device
    for part in batches(len(tokens_NL)):
        with torch.inference_mode():
            images = tokenizer.decode_indices(torch.from_numpy(tokens_NL[part]).to(device))
        yield to_pixels(images)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder, on CPU, in eval mode. Raises `InputError`."""
    tokenizer = Tokenizer(read_shape(folder, "tokenizer", TokenizerShape)[0])
    load_weights(tokenizer, folder)
    return tokenizer.eval()


def start_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Return a new tokenizer, or the one that `tokenizer.init` names.

    Raises:
        InputError: if the named one has another sha256 or another shape.
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
