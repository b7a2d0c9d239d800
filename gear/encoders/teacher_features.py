"""Write the features of teachers to disk, once for all trainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gear.core.files import write_json
from gear.data.array_file import new_array_file
from gear.data.images import ENCODER_BATCH, Pixels, to_tensor
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.encoders.config import TeacherConfig
from gear.encoders.vision import Teacher, build_teacher, on_grid, spatial_normalise

PROGRESS_BATCHES = 16


def write_teacher_features(
    folder: Path,
    configs: tuple[TeacherConfig, ...],
    train: Split,
    val: Pixels,
    *,
    grid: int,
    flip: bool,
    device: torch.device,
) -> None:
    """Write `train.npy`, `val.npy` and `teachers.json` to `folder`.

    The arrays are (N, views, L, C) float16, the features of every image on the token grid. Of
    training images there are two views, the image and its mirror image, if `flip`; of validation
    images one. C holds the teachers' channels side by side. teachers.json says which training
    images they are of.
    """
    teachers = [build_teacher(config).to(device) for config in configs]
    views = 2 if flip else 1
    widths = _write_features(folder / "train.npy", teachers, configs, train, grid, views)
    _write_features(folder / "val.npy", teachers, configs, val, grid, views=1)
    encoders = [
        {**config.model_dump(exclude={"path"}), "sha256": teacher.weights_sha256}
        for config, teacher in zip(configs, teachers, strict=True)
    ]
    facts = {"widths": widths, "encoders": encoders, "rows_sha256": train.rows_sha256()}
    write_json(folder / "teachers.json", facts)


@torch.inference_mode()
def _write_features(
    file: Path,
    teachers: list[Teacher],
    configs: tuple[TeacherConfig, ...],
    images_of: Pixels,
    grid: int,
    views: int,
) -> list[int]:
    """Write features a batch at a time, as they are as large as the data; return their widths."""
    cache: np.ndarray | None = None
    widths: list[int] = []
    for number, part in enumerate(batches(len(images_of), ENCODER_BATCH)):
        pixels = images_of[part]
        for view in range(views):
            seen = np.ascontiguousarray(pixels[:, :, ::-1]) if view else pixels
            images = to_tensor(seen, teachers[0])
            features = [
                spatial_normalise(on_grid(teacher(images), grid), config.spatial)
                for teacher, config in zip(teachers, configs, strict=True)
            ]
            if cache is None:
                widths = [x.shape[-1] for x in features]
                shape = (len(images_of), views, grid**2, sum(widths))
                cache = new_array_file(file, np.float16, shape)
            cache[part, view] = torch.cat(features, dim=-1).half().cpu().numpy()
        if number % PROGRESS_BATCHES == PROGRESS_BATCHES - 1 or part.stop == len(images_of):
            print(f"teacher features {file.stem} {part.stop}/{len(images_of)}", flush=True)
    return widths
