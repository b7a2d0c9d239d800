"""What the generator is given for rows of a split, as `data.condition` says: labels, or text states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gear import paths
from gear.data.captions import may_mirror
from gear.data.rows import round_robin
from gear.data.shards import Split, load_manifest, read_split
from gear.data.text_states import EMPTY, TextStates
from gear.generator.conditioning import Condition, pack
from gear.generator.sampling import SEED_STRIDE
from gear.params import Config

HERE = Path()

Conditions = Callable[[np.ndarray], Condition]  # rows to their condition, on CPU


def empty_caption(config: Config) -> torch.Tensor | None:
    """Text states of the empty caption, (t, C); None where the condition is the class."""
    if config.data.condition == "class":
        return None
    return torch.from_numpy(TextStates(paths.FEATURES / "text")[EMPTY].astype(np.float32))


def conditions_for(config: Config, split: Split, root: Path = HERE) -> Conditions:
    """Conditions of a split's rows; `root`: the checkout whose features hold their text states."""
    if config.data.condition == "class":
        return lambda rows: torch.from_numpy(split.labels[rows])
    states = TextStates(root / paths.FEATURES / "text")
    return lambda rows: pack([states[split.captions[row]] for row in rows])


def mirrored(config: Config, split: Split) -> bool | np.ndarray:
    """Which images training may mirror: as `data.flip` says, but for those whose caption, where it is the condition, names a side."""
    if config.data.condition == "class" or not config.data.flip:
        return config.data.flip
    return may_mirror(split.captions)


@dataclass(frozen=True)
class SamplingSet:
    """What samples are drawn for: balanced classes, or the validation captions in turn.

    rows: of the validation split, (N,), where the condition is the caption; labels: their classes, (N,); captions: what each is of.
    """

    rows: np.ndarray | None
    labels: np.ndarray
    captions: list[str]
    given: Conditions

    def __len__(self) -> int:
        return len(self.labels)


def sampling_set(config: Config, count: int, root: Path = HERE) -> SamplingSet:
    """The first `count` conditions that samples are drawn for, from the shards of a checkout."""
    if config.data.condition == "class":
        names = load_manifest(root / paths.SHARDS)["classes"]
        labels = np.arange(count, dtype=np.int64) % len(names)
        return SamplingSet(
            None,
            labels,
            [names[label] for label in labels],
            lambda chosen: torch.from_numpy(labels[chosen]),
        )
    val = read_split(root / paths.SHARDS / "val")
    rows, conditions = round_robin(count, len(val)), conditions_for(config, val, root)
    return SamplingSet(
        rows,
        val.labels[rows],
        [val.captions[row] for row in rows],
        lambda chosen: conditions(rows[chosen]),
    )


def drawn(config: Config, count: int) -> dict[str, Any]:
    """The protocol of `count` samples drawn as `sample` says."""
    by_caption, chosen = config.data.condition == "caption", config.sample
    return {
        "n": count,
        "condition": "validation captions in turn"
        if by_caption
        else "balanced class: i mod classes",
        "seeds": f"{config.run.seed} * {SEED_STRIDE} + i",
        "guidance": chosen.guidance,
        "interval": list(chosen.interval),
        "temperature": chosen.temperature,
        "top_k": chosen.top_k,
        "top_p": chosen.top_p,
        "weights": "EMA",
        "rounding": "nearest uint8",
    }
