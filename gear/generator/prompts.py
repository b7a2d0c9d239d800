"""Samples for prompts: captions named in the settings, and some of the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gear.data.captions import normalize_caption
from gear.data.row_selection import evenly_spaced
from gear.generator.conditioning import pack
from gear.generator.config import SampleConfig
from gear.generator.sampling import draw, sample_seeds
from gear.generator.transformer import Generator

IMAGES = 8  # samples per prompt
HELD_OUT = 8  # maximum number of validation captions among the prompts


@dataclass(frozen=True)
class Prompt:
    """A caption and its kind: "seen in training", "held out" or "new"."""

    caption: str
    kind: str

    @property
    def title(self) -> str:
        """Caption and kind, as a title of figures."""
        return f"{self.caption} ({self.kind})"


def choose_prompts(
    prompts: Sequence[str], train_captions: Sequence[str], val_captions: Sequence[str]
) -> list[Prompt]:
    """Return the prompts and up to `HELD_OUT` validation captions, without duplicates.

    The latter are not in the training split; if all are, any will do.
    """
    seen = set(train_captions)
    unseen = set(val_captions)
    candidates = [caption for caption in val_captions if caption not in seen] or val_captions
    held_out = [candidates[row] for row in evenly_spaced(len(candidates), HELD_OUT)]
    captions = dict.fromkeys(normalize_caption(caption) for caption in [*prompts, *held_out])
    return [
        Prompt(c, "seen in training" if c in seen else "held out" if c in unseen else "new")
        for c in captions
    ]


def prompt_rows(count: int) -> np.ndarray:
    """Return the prompt of each sample, (count * IMAGES,) int64: 0, ..., 0, 1, ..., 1, ..."""
    return np.repeat(np.arange(count), IMAGES)


def draw_prompts(
    generator: Generator, states: list[np.ndarray], seed: int, settings: SampleConfig, batch: int
) -> np.ndarray:
    """Sample `IMAGES` token grids of each prompt, (P * IMAGES, L) int64.

    states: text states of the P prompts, (t, C) each. Sample i of every prompt has the same seed.
    """
    rows = prompt_rows(len(states))
    seeds = np.tile(sample_seeds(seed, IMAGES), len(states))
    return draw(
        generator, lambda chosen: pack([states[i] for i in rows[chosen]]), seeds, settings, batch
    )
