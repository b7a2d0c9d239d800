"""Conditions of the generator for rows of a split: class labels, or text states of captions.

In all functions `condition` is the setting `data.condition`, "class" or "caption", and `features`
is the folder that the features stage wrote, which holds the text states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from gear.data.row_selection import round_robin
from gear.data.shards import Split, load_manifest, read_split
from gear.data.text_states import EMPTY, TextStates
from gear.generator.conditioning import Captions, Condition, pack
from gear.generator.config import SampleConfig
from gear.generator.sampling import SEED_STRIDE

Conditions = Callable[[np.ndarray], Condition]  # rows (n,) to their conditions, on CPU


class BatchConditions(Protocol):
    """Function from rows to their conditions, on CPU; rows may be one rank's share of a batch."""

    def __call__(self, rows: np.ndarray, batch: np.ndarray | None = None) -> Condition:
        """Return the conditions of rows.

        Args:
            rows: The rows, (n,).
            batch: Rows of the whole batch, if `rows` are a share of one.
        """


def empty_caption(condition: str, features: Path) -> torch.Tensor | None:
    """Return the text states of the empty caption, (t, C) float32; None for classes."""
    if condition == "class":
        return None
    return torch.from_numpy(TextStates(features / "text")[EMPTY].astype(np.float32))


def conditions_for(split: Split, condition: str, features: Path) -> BatchConditions:
    """Return a function from rows of a split to their conditions.

    Raises:
        InputError: if there are no text states of the captions.
    """
    if condition == "class":

        def labels(rows: np.ndarray, batch: np.ndarray | None = None) -> torch.Tensor:
            return torch.from_numpy(split.labels[rows])

        return labels
    return CaptionConditions(split.captions, TextStates(features / "text"))


class CaptionConditions:
    """Text states of the captions of rows.

    A share of a batch is padded to the longest caption of the whole batch, so that its shape, and
    with it the dropout mask of an image, does not depend on the number of ranks.

    captions: The caption of every row.
    states: Text states by caption.
    """

    def __init__(self, captions: Sequence[str], states: TextStates) -> None:
        self.captions, self.states = captions, states
        self._lengths = np.zeros(len(captions), np.int32)  # in tokens; 0 before the first look-up

    def __call__(self, rows: np.ndarray, batch: np.ndarray | None = None) -> Captions:
        """Return the states of rows, padded to the longest of `batch`, or of `rows` without one.

        Raises:
            InputError: if there are no text states of a caption.
        """
        longest = 0
        if batch is not None:
            others = np.setdiff1d(batch, rows)  # none on a single rank
            longest = max((self._length(row) for row in others), default=0)
        return pack([self.states[self.captions[row]] for row in rows], at_least=longest)

    def _length(self, row: int) -> int:
        """Return the number of tokens of a row's caption, without reading its states."""
        if not self._lengths[row]:
            self._lengths[row] = self.states.length(self.captions[row])
        return int(self._lengths[row])


@dataclass(frozen=True)
class SamplingSet:
    """The conditions of N samples: balanced classes, or validation captions in turn.

    rows: Rows of the validation split, (N,) int64; None if the condition is the class.
    labels: Classes, (N,) int64.
    captions: N captions, or class names.
    conditions: Function from positions 0..N-1 to their conditions.
    rule: How they were chosen, for metric records.
    """

    rows: np.ndarray | None
    labels: np.ndarray
    captions: list[str]
    conditions: Conditions
    rule: str

    def __len__(self) -> int:
        return len(self.labels)


def sampling_set(count: int, condition: str, shards: Path, features: Path) -> SamplingSet:
    """Return the conditions of `count` samples."""
    if condition == "class":
        names = load_manifest(shards)["classes"]
        labels, rule = sampled_classes(count, len(names))
        captions = [names[label] for label in labels]
        return SamplingSet(None, labels, captions, lambda i: torch.from_numpy(labels[i]), rule)
    val = read_split(shards / "val")
    rows = round_robin(count, len(val))
    of_val = conditions_for(val, condition, features)
    captions = [val.captions[row] for row in rows]
    rule = "validation captions in turn"
    return SamplingSet(rows, val.labels[rows], captions, lambda i: of_val(rows[i]), rule)


def sampled_classes(count: int, classes: int) -> tuple[np.ndarray, str]:
    """Return the classes of `count` samples, (count,) int64, and how they are chosen, as text.

    All classes in turn; of more classes than samples, evenly spaced ones, since the first ones by
    name may be all of one kind.

    >>> sampled_classes(5, classes=3)[0].tolist(), sampled_classes(3, classes=9)[0].tolist()
    ([0, 1, 2, 0, 1], [0, 4, 8])
    """
    labels = round_robin(count, classes)
    if count < classes:
        return labels, f"{count} evenly spaced classes of {classes}"
    return labels, "balanced class: i mod classes"


def sampling_protocol(wanted: SamplingSet, settings: SampleConfig, seed: int) -> dict[str, Any]:
    """Return how the samples of a run with this seed are drawn, for metric records."""
    return {
        "n": len(wanted),
        "condition": wanted.rule,
        "seeds": f"{seed} * {SEED_STRIDE} + i",
        "guidance": settings.guidance,
        "interval": list(settings.interval),
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "weights": "EMA",
        "rounding": "nearest uint8",
    }
