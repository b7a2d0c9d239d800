"""Text states of captions without a text encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gear.data.text_states import key_of, write_states


def word_states(captions: list[str], width: int) -> list[np.ndarray]:
    """Return random states (t, width) float16 of each caption of t - 1 words."""
    return [
        np.random.default_rng(int(key_of(caption)[:8], 16))
        .standard_normal((1 + len(caption.split()), width))
        .astype(np.float16)
        for caption in captions
    ]


def write_caption_states(captions: list[str], folder: Path, width: int) -> None:
    """Write the states of captions as the features stage does."""
    write_states(captions, lambda some: word_states(some, width), folder)
    (folder / "text.json").write_text(f'{{"width": {width}}}')
