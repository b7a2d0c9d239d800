"""Which images each step sees: a function of (seed, step) alone, so ranks, workers and resumes agree."""

from __future__ import annotations

import numpy as np


class Plan:
    """Class-balanced batches. Every class is equally likely; within one, each image comes once before any comes twice."""

    def __init__(self, labels: np.ndarray, batch: int, seed: int, mirror: bool | np.ndarray) -> None:
        """`mirror`: whether images may be mirrored, one for all or one a row."""
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.batch_size, self.seed, self.may_mirror = batch, seed, np.broadcast_to(mirror, len(labels))
        self._turn, self._classes = -1, np.empty(0, dtype=np.int64)
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Image positions (batch,) int64 and whether to mirror each, (batch,) bool."""
        draws = step * self.batch_size + np.arange(self.batch_size)
        turns, places = draws // len(self.members), draws % len(self.members)
        classes = [self._class_order(int(turn))[place] for turn, place in zip(turns, places, strict=True)]
        indices = np.array([self._pick(int(c), int(t)) for c, t in zip(classes, turns, strict=True)], dtype=np.int64)
        drawn = np.random.default_rng([self.seed, 1, step]).random(self.batch_size) < 0.5
        return indices, drawn & self.may_mirror[indices]

    def _class_order(self, turn: int) -> np.ndarray:
        """Every class once, in an order of this turn's own: neighbours in a sorted list of classes must not share batches."""
        if self._turn != turn:
            self._turn, self._classes = turn, np.random.default_rng([self.seed, 2, turn]).permutation(len(self.members))
        return self._classes

    def _pick(self, label: int, turn: int) -> int:
        members = self.members[label]
        epoch, place = divmod(turn, len(members))
        if (label, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != label}
            self._orders[label, epoch] = np.random.default_rng([self.seed, 0, label, epoch]).permutation(members)
        return int(self._orders[label, epoch][place])
