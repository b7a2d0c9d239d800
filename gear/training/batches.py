"""Which images each step sees: a function of (seed, step) alone, so ranks, workers and resumes agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from gear.data.shards import Split
from gear.generator.conditioning import Condition
from gear.training.distributed import DistributedContext


class ClassBalancedSampler:
    """Class-balanced batches. Every class is equally likely; within one, each image comes once before any comes twice."""

    def __init__(
        self, labels: np.ndarray, batch: int, seed: int, mirror: bool | np.ndarray
    ) -> None:
        """`mirror`: whether images may be mirrored, one for all or one a row."""
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.batch_size, self.seed, self.may_mirror = (
            batch,
            seed,
            np.broadcast_to(mirror, len(labels)),
        )
        self._turn, self._classes = -1, np.empty(0, dtype=np.int64)
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Image positions (batch,) int64 and whether to mirror each, (batch,) bool."""
        draws = step * self.batch_size + np.arange(self.batch_size)
        turns, places = draws // len(self.members), draws % len(self.members)
        classes = [
            self._class_order(int(turn))[place] for turn, place in zip(turns, places, strict=True)
        ]
        indices = np.array(
            [self._pick(int(c), int(t)) for c, t in zip(classes, turns, strict=True)],
            dtype=np.int64,
        )
        drawn = np.random.default_rng([self.seed, 1, step]).random(self.batch_size) < 0.5
        return indices, drawn & self.may_mirror[indices]

    def _class_order(self, turn: int) -> np.ndarray:
        """Every class once, in an order of this turn's own: neighbours in a sorted list of classes must not share batches."""
        if self._turn != turn:
            self._turn, self._classes = (
                turn,
                np.random.default_rng([self.seed, 2, turn]).permutation(len(self.members)),
            )
        return self._classes

    def _pick(self, label: int, turn: int) -> int:
        members = self.members[label]
        epoch, place = divmod(turn, len(members))
        if (label, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != label}
            self._orders[label, epoch] = np.random.default_rng(
                [self.seed, 0, label, epoch]
            ).permutation(members)
        return int(self._orders[label, epoch][place])


class BatchLoader:
    """Batches by step number: the same for any number of ranks, and after any resume."""

    def __init__(
        self,
        split: Split,
        plan: ClassBalancedSampler,
        world: DistributedContext,
        *,
        features: np.ndarray | None = None,
        condition: Callable[[np.ndarray], Condition] | None = None,
        tokens: np.ndarray | None = None,
    ) -> None:
        self.split, self.plan, self.world, self.features, self.condition, self.tokens = (
            split,
            plan,
            world,
            features,
            condition,
            tokens,
        )

    def __call__(self, step: int) -> Batch:
        """This rank's share of batch `step`."""
        indices, flips = self.plan.batch(step)
        mine = slice(self.world.rank, None, self.world.size)
        indices, flips = indices[mine], flips[mine]
        device, views = self.world.device, flips.astype(np.int64)
        images = teacher = tokens = None
        if self.tokens is not None:
            tokens = torch.from_numpy(self.tokens[indices, views].astype(np.int64)).to(device)
        else:
            pixels = self.split.images(indices)
            pixels[flips] = pixels[flips][:, :, ::-1]
            images = torch.from_numpy(_floats(pixels)).to(device)
        if self.features is not None:
            teacher = torch.from_numpy(self.features[indices, views].astype(np.float32)).to(device)
        condition = self.condition(indices).to(device) if self.condition is not None else None
        return Batch(images, condition, teacher, [self.split.keys[i] for i in indices], tokens)


def _floats(pixels: np.ndarray) -> np.ndarray:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]. By numpy: torch's threads are the training's, this runs beside it."""
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    images /= np.float32(127.5)
    images -= np.float32(1.0)
    return images


def prefetch(feed: BatchLoader, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """Steps and their batches; the next batch is read and decoded while the last one is trained on."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as fetch:
        waiting = [fetch.submit(feed, first)] if first < steps else []
        for number in range(first, steps):
            batch = waiting.pop().result()
            if number + 1 < steps:
                waiting.append(fetch.submit(feed, number + 1))
            yield number, batch


@dataclass(frozen=True)
class Batch:
    """What one rank sees in one step."""

    images_BCHW: torch.Tensor | None  # [-1, 1]; None where the tokens are cached
    condition: Condition | None  # None where the stage has no generator
    teacher_BLC: torch.Tensor | None  # None where the stage has no generator
    keys: list[str]
    tokens_BL: torch.Tensor | None = None  # of a frozen tokenizer, where cached

    def images(self) -> torch.Tensor:
        """Pixels, for the updates that need them."""
        assert self.images_BCHW is not None
        return self.images_BCHW

    def given(self) -> Condition:
        """What the generator is given."""
        assert self.condition is not None
        return self.condition

    def teacher(self) -> torch.Tensor:
        """Teacher features, for the losses that need them."""
        assert self.teacher_BLC is not None
        return self.teacher_BLC
