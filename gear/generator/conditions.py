"""Conditions of the generator for rows of a split: class labels, or text states of captions.

In all functions `condition` is the setting `data.condition`, "class" or "caption", and `features`
is the folder that the features stage wrote, which holds the text states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gear.data.row_selection import round_robin
from gear.data.shards import Split, load_manifest, read_split
from gear.data.text_states import EMPTY, TextStates
from gear.generator.conditioning import Condition, pack
from gear.generator.config import SampleConfig
from gear.generator.sampling import SEED_STRIDE

Conditions = Callable[[np.ndarray], Condition]  # rows (n,) to their conditions, on CPU


def empty_caption(condition: str, features: Path) -> torch.Tensor | None:
    """Return the text states of the empty caption, (t, C) float32; None for classes."""
    if condition == "class":
        return None
    return torch.from_numpy(TextStates(features / "text")[EMPTY].astype(np.float32))


def conditions_for(split: Split, condition: str, features: Path) -> Conditions:
    """Return a function from rows of a split to their conditions.

    Raises:
        InputError: if there are no text states of the captions.
    """
    if condition == "class":
        return lambda rows: torch.from_numpy(split.labels[rows])
    states = TextStates(features / "text")
    return lambda rows: pack([states[split.captions[row]] for row in rows])


@dataclass(frozen=True)
class SamplingSet:
    """The conditions of N samples: balanced classes, or validation captions in turn.

    rows: Rows of the validation split, (N,) int64; None if the condition is the class.
    labels: Classes, (N,) int64.
    captions: N captions, or class names.
    conditions: Function from positions 0..N-1 to their conditions.
    """

    rows: np.ndarray | None
    labels: np.ndarray
    captions: list[str]
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.labels)


def sampling_set(count: int, condition: str, shards: Path, features: Path) -> SamplingSet:
    """Return the conditions of `count` samples."""
    if condition == "class":
        names = load_manifest(shards)["classes"]
        labels = np.arange(count, dtype=np.int64) % len(names)
        captions = [names[label] for label in labels]
        return SamplingSet(None, labels, captions, lambda i: torch.from_numpy(labels[i]))
    val = read_split(shards / "val")
    rows = round_robin(count, len(val))
    of_val = conditions_for(val, condition, features)
    captions = [val.captions[row] for row in rows]
    return SamplingSet(rows, val.labels[rows], captions, lambda i: of_val(rows[i]))


def sampling_protocol(
    count: int, condition: str, settings: SampleConfig, seed: int
) -> dict[str, Any]:
    """Return how `count` samples of a run with this seed are drawn, for metric records."""
    balanced = "balanced class: i mod classes"
    return {
        "n": count,
        "condition": balanced if condition == "class" else "validation captions in turn",
        "seeds": f"{seed} * {SEED_STRIDE} + i",
        "guidance": settings.guidance,
        "interval": list(settings.interval),
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "weights": "EMA",
        "rounding": "nearest uint8",
    }
