"""Training data of the generator: images, conditions and teacher features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import read_object
from gear.core.text import one_line
from gear.data.shards import VALIDATION_IMAGES, Split, load_manifest, read_split
from gear.encoders.config import TeachersConfig
from gear.encoders.teacher_features import TeacherFeatures, describe_teachers
from gear.generator.conditioning import Condition
from gear.generator.conditions import BatchConditions, conditions_for, empty_caption
from gear.joint.validation_curve import ValidationSet
from gear.training.batches import BatchLoader, batch_sampler, mirror_mask
from gear.training.fingerprint import JOINT_CODE
from gear.training.run import TrainingRun

TEACHER_CODE = ("encoders/teacher_features.py", "encoders/vision.py")


@dataclass(frozen=True)
class JointDataset:
    """The training split with conditions and teacher features.

    features: By row and view, (N, V, L, C) float16; None if they are not cached.
    teachers: Number of channels of each teacher.
    condition: The setting data.condition, "class" or "caption".
    conditions: Function from rows to their conditions.
    empty_caption: Text states of the empty caption, (t, C); None for classes.
    """

    split: Split
    class_names: list[str]
    features: np.ndarray | None
    teachers: tuple[int, ...]
    condition: str
    flip: bool
    conditions: BatchConditions
    empty_caption: torch.Tensor | None
    validation: ValidationSet

    def loader(
        self,
        training: TrainingRun,
        config: TeachersConfig,
        *,
        grid: int,
        seed_offset: int,
        tokens: np.ndarray | None = None,
    ) -> BatchLoader[Condition]:
        """Return the batches of a training.

        Args:
            training: The training.
            config: The teachers, which compute features that are not cached.
            grid: Side of the token grid.
            seed_offset: Added to the run's seed; another one for each stage.
            tokens: Tokens of a frozen tokenizer by row and view, (N, V, L), if cached.
        """
        settings = training.settings
        teacher = None
        if self.features is None:
            encoders = TeacherFeatures(config.encoders, grid=grid, device=training.device)
            teacher = encoders.as_cached
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
            teacher=teacher,
            condition=self.conditions,
            tokens=tokens,
        )


def read_joint_dataset(
    shards: Path,
    features: Path,
    config: TeachersConfig,
    *,
    condition: str,
    flip: bool,
) -> JointDataset:
    """Return the images of the shards, with what the features stage wrote for them.

    Raises:
        InputError: if the features are absent, damaged, of other images, or of other teachers than
            `config` names.
    """
    split = read_split(shards / "train")
    val = read_split(shards / "val")
    images = val.subset(VALIDATION_IMAGES)
    teachers = read_object(features / "teachers.json", widths=list, encoders=list, rows_sha256=str)
    if teachers["encoders"] != describe_teachers(config):
        raise InputError(
            f"{features}: features of other teachers than teacher.encoders names: "
            "run `dvc repro features`"
        )
    of_train = None
    if teachers.get("cached", True):  # absent in files of older versions
        of_train = _read_features(features / "train.npy", len(split), sum(teachers["widths"]))
    of_val_images = _read_features(features / "val.npy", len(images), sum(teachers["widths"]))
    if teachers["rows_sha256"] != split.rows_sha256():
        raise InputError(
            f"{features}: features of other images than those of {shards}: run `dvc repro features`"
        )
    of_val = conditions_for(val, condition, features)
    validation = ValidationSet(
        images,
        lambda positions: of_val(images.indices[positions]),
        of_val_images,
    )
    return JointDataset(
        split,
        class_names=load_manifest(shards)["classes"],
        features=of_train,
        teachers=tuple(teachers["widths"]),
        condition=condition,
        flip=flip,
        conditions=conditions_for(split, condition, features),
        empty_caption=empty_caption(condition, features),
        validation=validation,
    )


def training_code(features: Path) -> tuple[str, ...]:
    """Return the code that decides what a training on these features computes, for `identify`.

    That of the teachers is part of it if the features of training images are not cached: then every
    step computes them.
    """
    try:
        cached = read_object(features / "teachers.json").get("cached", True)
    except InputError:  # the training itself says what is wrong with them
        cached = True
    return JOINT_CODE if cached else (*JOINT_CODE, *TEACHER_CODE)


def _read_features(file: Path, images: int, width: int) -> np.ndarray:
    """Return features, (images, V, L, width) float16, read on demand. Raises `InputError`."""
    remedy = "run `dvc repro features`"
    try:
        found: np.ndarray = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: {one_line(str(error), 120)}: {remedy}") from None
    if found.ndim != 4 or found.dtype != np.float16 or found.shape[3] != width:
        raise InputError(f"{file}: {found.dtype} {found.shape} is not its shape: {remedy}")
    if len(found) != images:
        raise InputError(f"{file}: features of {len(found)} images, not {images}: {remedy}")
    return found
