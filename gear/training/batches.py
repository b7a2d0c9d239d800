"""Training batches: a function of (seed, step) alone, for any number of ranks and any resume."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from gear.data.captions import may_mirror
from gear.data.shards import Split
from gear.training.distributed import DistributedContext


class OnDevice(Protocol):
    """Interface of data that moves to a device, such as a tensor or generator conditions."""

    def to(self, device: torch.device) -> Self:
        """Return a copy on the device."""

    def __getitem__(self, rows: slice, /) -> Self:
        """Return some rows."""


AHEAD = 3  # batches that are loaded in advance
ConditionT = TypeVar("ConditionT", bound=OnDevice)


@dataclass(frozen=True)
class Batch(Generic[ConditionT]):
    """One rank's share of the batch of a step; a field that the stage does not use is None.

    seeds: dropout seed of each image; a function of (seed, step, position in the whole batch).
    """

    images_BCHW: torch.Tensor | None  # in [-1, 1]
    condition: ConditionT | None
    teacher_BLC: torch.Tensor | None
    keys: list[str]
    tokens_BL: torch.Tensor | None = None  # of a frozen tokenizer, if cached
    seeds: tuple[int, ...] = ()

    def micro_batches(self, count: int) -> list[Batch[ConditionT]]:
        """Split the batch into equal micro-batches; `count` must divide its size."""
        if count == 1:
            return [self]
        size = len(self.keys) // count
        slices = [slice(start, start + size) for start in range(0, len(self.keys), size)]
        return [
            Batch(
                None if self.images_BCHW is None else self.images_BCHW[rows],
                None if self.condition is None else self.condition[rows],
                None if self.teacher_BLC is None else self.teacher_BLC[rows],
                self.keys[rows],
                None if self.tokens_BL is None else self.tokens_BL[rows],
                self.seeds[rows],
            )
            for rows in slices
        ]

    def images(self) -> torch.Tensor:
        """Return the images, (B, 3, H, W) in [-1, 1]."""
        assert self.images_BCHW is not None
        return self.images_BCHW

    def conditions(self) -> ConditionT:
        """Return the conditions of the generator."""
        assert self.condition is not None
        return self.condition

    def teacher(self) -> torch.Tensor:
        """Return the teacher's features, (B, L, C)."""
        assert self.teacher_BLC is not None
        return self.teacher_BLC


def mirror_mask(split: Split, *, flip: bool, condition: str) -> np.ndarray:
    """Return which images training may mirror, (N,) bool.

    Args:
        split: The training images.
        flip: The setting data.flip.
        condition: The setting data.condition. If captions are the condition, an image whose
            caption says left or right is not mirrored.
    """
    if flip and condition == "caption":
        return may_mirror(split.captions)
    return np.full(len(split), flip)


class ClassBalancedSampler:
    """Draws class-balanced batches: all classes are equally likely.

    Within a class, each image is drawn once before any is drawn twice.
    """

    def __init__(
        self, labels: np.ndarray, batch: int, seed: int, mirror: bool | np.ndarray
    ) -> None:
        """Create a sampler.

        labels: class of each image, (N,). batch: images a step. seed: decides all draws.
        mirror: whether images may be mirrored, (N,) or one value for all.
        """
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.batch_size = batch
        self.seed = seed
        self.may_mirror = np.broadcast_to(mirror, len(labels))
        self._turn = -1
        self._classes = np.empty(0, dtype=np.int64)
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image indices, (batch,) int64, and whether to mirror each, (batch,) bool."""
        draws = step * self.batch_size + np.arange(self.batch_size)
        turns = draws // len(self.members)
        places = draws % len(self.members)
        indices = np.array(
            [
                self._pick(int(self._class_order(int(turn))[place]), int(turn))
                for turn, place in zip(turns, places, strict=True)
            ],
            dtype=np.int64,
        )
        mirrored = np.random.default_rng([self.seed, 1, step]).random(self.batch_size) < 0.5
        return indices, mirrored & self.may_mirror[indices]

    def image_seeds(self, step: int) -> np.ndarray:
        """Return a seed for each image of a step, (batch,) int64, in [0, 2^63)."""
        sequence = np.random.SeedSequence([self.seed, 3, step])
        states = sequence.generate_state(self.batch_size, np.uint64)
        return (states >> np.uint64(1)).astype(np.int64)

    def _class_order(self, turn: int) -> np.ndarray:
        """Return the classes in random order: else adjacent ones would always share batches."""
        if self._turn != turn:
            self._turn = turn
            random = np.random.default_rng([self.seed, 2, turn])
            self._classes = random.permutation(len(self.members))
        return self._classes

    def _pick(self, label: int, turn: int) -> int:
        members = self.members[label]
        epoch, place = divmod(turn, len(members))
        if (label, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != label}
            random = np.random.default_rng([self.seed, 0, label, epoch])
            self._orders[label, epoch] = random.permutation(members)
        return int(self._orders[label, epoch][place])


def batch_sampler(
    split: Split, *, balance: str, batch: int, seed: int, mirror: np.ndarray
) -> ClassBalancedSampler:
    """Return the sampler that `train.balance` names.

    `natural` treats all images as one class: each is drawn once before any is drawn twice.
    """
    labels = split.labels if balance == "classes" else np.zeros_like(split.labels)
    return ClassBalancedSampler(labels, batch, seed, mirror)


class BatchLoader(Generic[ConditionT]):
    """Loads the batch of a step: the same for any number of ranks, and after any resume."""

    def __init__(
        self,
        split: Split,
        sampler: ClassBalancedSampler,
        context: DistributedContext,
        *,
        features: np.ndarray | None = None,
        teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
        condition: Callable[[np.ndarray, np.ndarray], ConditionT] | None = None,
        tokens: np.ndarray | None = None,
    ) -> None:
        """Set the data that batches are made of.

        Args:
            split: The training images.
            sampler: Selects the images of a step.
            context: Rank and number of ranks: a rank loads its share of a batch.
            features: Teacher features by image and view, (N, V, L, C); view 1 is the mirror image.
            teacher: Computes features (B, L, C) of images, if they are not cached.
            condition: Function from image indices of this rank, and of the whole batch, to
                conditions of the generator for this rank.
            tokens: Tokens by image and view, (N, V, L); images are then only loaded for `teacher`.
        """
        self.split = split
        self.sampler = sampler
        self.context = context
        self.features = features
        self.teacher = teacher
        self.condition = condition
        self.tokens = tokens

    def __call__(self, step: int) -> Batch[ConditionT]:
        """Return this rank's share of the batch of a step."""
        whole, mirrored = self.sampler.batch(step)
        share = slice(self.context.rank, None, self.context.size)
        indices, mirrored = whole[share], mirrored[share]
        device, views = self.context.device, mirrored.astype(np.int64)
        images = teacher = tokens = None
        if self.tokens is not None:
            tokens = torch.from_numpy(self.tokens[indices, views].astype(np.int64)).to(device)
        if self.tokens is None or self.teacher is not None:
            pixels = self.split.images(indices)
            pixels[mirrored] = pixels[mirrored][:, :, ::-1]
            images = _to_device(torch.from_numpy(_floats(pixels)), device)
        if self.features is not None:
            chosen = self.features[indices, views].astype(np.float32)
            teacher = _to_device(torch.from_numpy(chosen), device)
        elif self.teacher is not None:
            assert images is not None
            teacher = self.teacher(images).float()
        condition = None
        if self.condition is not None:
            condition = self.condition(indices, whole).to(device)
        keys = [self.split.keys[i] for i in indices]
        seeds = self.sampler.image_seeds(step)[share].tolist()
        return Batch(images, condition, teacher, keys, tokens, tuple(seeds))


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; to a GPU from pinned memory, without blocking."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _floats(pixels: np.ndarray) -> np.ndarray:
    """Convert (B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1].

    Uses numpy: this runs in a thread during training, which occupies torch's threads.
    """
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    images /= np.float32(127.5)
    images -= np.float32(1.0)
    return images


def prefetch(
    loader: BatchLoader[ConditionT], first: int, steps: int
) -> Iterator[tuple[int, Batch[ConditionT]]]:
    """Yield (step, batch) for the steps in [first, steps); a thread loads the next batches."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as executor:
        ahead = deque(executor.submit(loader, s) for s in range(first, min(first + AHEAD, steps)))
        try:
            for step in range(first, steps):
                batch = ahead.popleft().result()
                if step + AHEAD < steps:
                    ahead.append(executor.submit(loader, step + AHEAD))
                yield step, batch
        finally:
            executor.shutdown(cancel_futures=True)
