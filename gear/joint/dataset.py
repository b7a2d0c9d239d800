"""What trainings of the generator learn from: images, conditions and teacher features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gear.core.files import read_json
from gear.data.shards import VALIDATION_IMAGES, Split, load_manifest, read_split
from gear.generator.conditioning import Condition
from gear.generator.conditions import Conditions, conditions_for, empty_caption
from gear.joint.validation_curve import ValidationSet
from gear.training.batches import BatchLoader, batch_sampler, mirror_mask
from gear.training.run import TrainingRun


@dataclass(frozen=True)
class JointDataset:
    """The training split, with teacher features by row and view (N, V, L, C).

    teachers: channels of each teacher in them.
    condition: the setting data.condition, "class" or "caption".
    """

    split: Split
    class_names: list[str]
    features: np.ndarray
    teachers: tuple[int, ...]
    condition: str
    flip: bool
    conditions: Conditions
    empty_caption: torch.Tensor | None
    validation: ValidationSet

    def loader(
        self, training: TrainingRun, *, seed_offset: int, tokens: np.ndarray | None = None
    ) -> BatchLoader[Condition]:
        """Return the batches of a training; each stage has another offset to the run's seed.

        tokens: of a frozen tokenizer, by row and view; batches then hold no images.
        """
        settings = training.settings
        sampler = batch_sampler(
            self.split,
            balance=settings.train.balance,
            batch=settings.batch,
            seed=settings.run.seed + seed_offset,
            mirror=mirror_mask(self.split, flip=self.flip, condition=self.condition),
        )
        return BatchLoader(
            self.split,
            sampler,
            training.context,
            features=self.features,
            condition=self.conditions,
            tokens=tokens,
        )


def read_joint_dataset(
    shards: Path,
    features: Path,
    *,
    condition: str,
    flip: bool,
) -> JointDataset:
    """Return the images of the shards, with what the features stage wrote for them."""
    split = read_split(shards / "train")
    val = read_split(shards / "val")
    images = val.subset(VALIDATION_IMAGES)
    of_val = conditions_for(val, condition, features)
    validation = ValidationSet(
        images,
        lambda positions: of_val(images.indices[positions]),
        np.load(features / "val.npy", mmap_mode="r"),
    )
    return JointDataset(
        split,
        class_names=load_manifest(shards)["classes"],
        features=np.load(features / "train.npy", mmap_mode="r"),
        teachers=tuple(read_json(features / "teachers.json")["widths"]),
        condition=condition,
        flip=flip,
        conditions=conditions_for(split, condition, features),
        empty_caption=empty_caption(condition, features),
        validation=validation,
    )
