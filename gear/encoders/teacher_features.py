"""Write the features of teachers to disk, once for all trainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gear.core.files import write_json
from gear.data.images import ENCODER_BATCH, to_tensor
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.encoders.config import TeacherConfig
from gear.encoders.vision import build_teacher, on_grid, spatial_normalise

PROGRESS_BATCHES = 16


@torch.inference_mode()
def write_teacher_features(
    folder: Path,
    configs: tuple[TeacherConfig, ...],
    train: Split,
    *,
    grid: int,
    flip: bool,
    device: torch.device,
) -> None:
    """Write `train.npy` and `teachers.json` to `folder`.

    train.npy: (N, views, L, C) float16, the features of every image on the token grid; there are
    two views, the image and its mirror image, if `flip`. C holds the teachers' channels side by
    side. It is as large as the data, so it is written a batch at a time.
    """
    teachers = [build_teacher(config).to(device) for config in configs]
    views = 2 if flip else 1
    cache: np.ndarray | None = None
    widths: list[int] = []
    for number, part in enumerate(batches(len(train), ENCODER_BATCH)):
        pixels = train[part]
        for view in range(views):
            seen = np.ascontiguousarray(pixels[:, :, ::-1]) if view else pixels
            images = to_tensor(seen, teachers[0])
            features = [
                spatial_normalise(on_grid(teacher(images), grid), config.spatial)
                for teacher, config in zip(teachers, configs, strict=True)
            ]
            if cache is None:
                widths = [x.shape[-1] for x in features]
                shape = (len(train), views, grid**2, sum(widths))
                cache = np.lib.format.open_memmap(
                    folder / "train.npy", mode="w+", dtype=np.float16, shape=shape
                )
            cache[part, view] = torch.cat(features, dim=-1).half().cpu().numpy()
        if number % PROGRESS_BATCHES == PROGRESS_BATCHES - 1 or part.stop == len(train):
            print(f"teacher features {part.stop}/{len(train)}", flush=True)
    encoders = [
        {**config.model_dump(exclude={"path"}), "sha256": teacher.weights_sha256}
        for config, teacher in zip(configs, teachers, strict=True)
    ]
    write_json(folder / "teachers.json", {"widths": widths, "encoders": encoders})
