"""Features of teachers: cached once for all trainings, or computed in every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gear.core.files import sha256_of, write_json
from gear.core.ranks import ALONE, Ranks
from gear.data.array_file import new_array_file
from gear.data.images import ENCODER_BATCH, Pixels, to_tensor
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.encoders.config import TeacherConfig, TeachersConfig
from gear.encoders.efficientnet import packaged_weights
from gear.encoders.vision import PACKAGED, build_teacher, on_grid, spatial_normalise

PROGRESS_BATCHES = 16
LARGEST_CACHE = 64 << 30  # bytes of training features that `teacher.cache: auto` keeps on disk


class TeacherFeatures:
    """The teachers of a run, which map images to features on the token grid."""

    def __init__(
        self, configs: tuple[TeacherConfig, ...], *, grid: int, device: torch.device
    ) -> None:
        """Load the teachers.

        Raises:
            InputError: if the weights of one are absent, have another sha256, or lack its layer.
        """
        self.configs, self.grid = configs, grid
        self.teachers = [build_teacher(config).to(device) for config in configs]

    @torch.no_grad()
    def __call__(self, images_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of each teacher, (B, L, C) fp32, of images in [-1, 1]."""
        return [
            spatial_normalise(on_grid(teacher(images_BCHW), self.grid), config.spatial)
            for teacher, config in zip(self.teachers, self.configs, strict=True)
        ]

    def as_cached(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return features as the cache stores them, (B, L, sum of C) float16."""
        parts = images_BCHW.split(ENCODER_BATCH)
        return torch.cat([torch.cat(self(part), dim=-1).half() for part in parts])

    def widths(self) -> list[int]:
        """Return the number of channels of each teacher."""
        device = next(self.teachers[0].parameters()).device
        return [x.shape[-1] for x in self(torch.zeros(1, 3, 64, 64, device=device))]


def cache_bytes(images: int, views: int, grid: int, width: int) -> int:
    """Return the size of the cached features of a training split, bytes.

    >>> cache_bytes(1_281_167, views=2, grid=16, width=768) >> 30
    938
    """
    return images * views * grid**2 * width * 2


def is_cached(cache: str, size: int) -> bool:
    """Return whether features of `size` bytes are cached, by the setting `teacher.cache`."""
    return cache == "always" or (cache == "auto" and size <= LARGEST_CACHE)


def describe_teachers(config: TeachersConfig) -> list[dict[str, Any]]:
    """Return what determines the features of each teacher: its settings and its weights' sha256.

    Where the weights lie is left out.
    """
    return [
        {
            **one.model_dump(mode="json", exclude={"path"}),
            "sha256": sha256_of(packaged_weights()) if one.name == PACKAGED else one.sha256,
        }
        for one in config.encoders
    ]


def write_teacher_features(
    folder: Path,
    config: TeachersConfig,
    train: Split,
    val: Pixels,
    *,
    grid: int,
    flip: bool,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> None:
    """Write `train.npy` if it is to be cached, `val.npy` and `teachers.json` to `folder`.

    The arrays are (N, views, L, C) float16, the features of every image on the token grid. Training
    images have two views if `flip`, the image and its mirror image; validation images have one. C
    is the concatenation of the teachers' channels. teachers.json describes the teachers and has a
    hash of the training images. Ranks share the work; rank zero writes.
    """
    teachers = TeacherFeatures(config.encoders, grid=grid, device=device)
    widths = teachers.widths()
    views = 2 if flip else 1
    cached = is_cached(config.cache, cache_bytes(len(train), views, grid, sum(widths)))
    if cached:
        _write_features(folder / "train.npy", teachers, train, sum(widths), views, ranks)
    elif ranks.is_rank_zero:
        print("teacher features train: not cached, trainings compute them (teacher.cache)")
    _write_features(folder / "val.npy", teachers, val, sum(widths), 1, ranks)
    if not ranks.is_rank_zero:
        return
    facts = {
        "widths": widths,
        "encoders": describe_teachers(config),
        "rows_sha256": train.rows_sha256(),
        "cached": cached,
    }
    write_json(folder / "teachers.json", facts)


def _write_features(
    file: Path, teachers: TeacherFeatures, images_of: Pixels, width: int, views: int, ranks: Ranks
) -> None:
    """Write features batch by batch, since they may not fit in memory."""

    def extract(part: slice) -> np.ndarray:
        pixels = images_of[part]
        seen = [pixels, np.ascontiguousarray(pixels[:, :, ::-1])][:views]
        features = [teachers.as_cached(to_tensor(view, teachers.teachers[0])) for view in seen]
        return torch.stack(features, dim=1).cpu().numpy()

    parts = list(batches(len(images_of), ENCODER_BATCH))
    cache = None
    if ranks.is_rank_zero:
        shape = (len(images_of), views, teachers.grid**2, width)
        cache = new_array_file(file, np.float16, shape)
    for number, (part, features) in enumerate(
        zip(parts, ranks.map(extract, parts), strict=True), start=1
    ):
        if cache is None:
            continue
        cache[part] = features
        if number % PROGRESS_BATCHES == 0 or part.stop == len(images_of):
            print(f"teacher features {file.stem} {part.stop}/{len(images_of)}", flush=True)
