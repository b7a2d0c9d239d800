"""Stage features: teacher features and text states, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from gear import paths
from gear.core.device import pick_device
from gear.core.files import replace_folder, write_json
from gear.data.images import ENCODER_BATCH, to_tensor
from gear.data.rows import batches
from gear.data.shards import Split, read_split
from gear.data.text_states import write_states
from gear.encoders.text import TextEncoder
from gear.encoders.vision import build_teacher, on_grid, spatial_normalise
from gear.params import Config


def run(config: Config) -> None:
    """`data/shards` → `data/features`.

    train.npy: (N, views, L, C) float16, C the teachers' channels side by side; teachers.json: what they are;
    text/, where data.condition is caption: text states of every caption and of the empty one.
    """
    device, train = pick_device(config.host), read_split(paths.SHARDS / "train")
    teachers = nn.ModuleList(build_teacher(one) for one in config.teacher.encoders).to(device)

    def fill(draft: Path) -> None:
        widths = _teach(config, teachers, train, draft / "train.npy")
        named = zip(config.teacher.encoders, teachers, strict=True)
        encoders = [
            one.model_dump(exclude={"path"}) | {"sha256": teacher.weights_sha256}
            for one, teacher in named
        ]
        write_json(draft / "teachers.json", {"widths": widths, "encoders": encoders})
        if config.data.condition == "caption":
            _write_text(
                config,
                [*train.captions, *read_split(paths.SHARDS / "val").captions],
                draft / "text",
                device,
            )

    replace_folder(paths.FEATURES, fill)


def _write_text(config: Config, captions: list[str], folder: Path, device: torch.device) -> None:
    encoder = TextEncoder(config.text, device)
    count = write_states(captions, encoder, folder)
    cut = sum(encoder.length(caption) > config.text.tokens for caption in set(captions))
    facts = {
        "encoder": encoder.name,
        "sha256": encoder.weights_sha256,
        "width": encoder.width,
        "tokens": config.text.tokens,
    }
    write_json(folder / "text.json", {**facts, "captions": count, "cut": cut})
    if cut:
        print(f"{cut} captions are longer than text.tokens = {config.text.tokens} and are cut")


@torch.inference_mode()
def _teach(config: Config, teachers: nn.ModuleList, train: Split, file: Path) -> list[int]:
    """Write every image's (and its mirror image's) features on the token grid to `file`; return the teachers' widths."""
    views = (False, True) if config.data.flip else (False,)
    cache: np.ndarray | None = None  # on disk: as large as the data, never whole in memory
    widths: list[int] = []
    for number, part in enumerate(batches(len(train), ENCODER_BATCH)):
        pixels = train[part]
        for view, mirrored in enumerate(views):
            images = to_tensor(
                np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels, teachers
            )
            seen = [
                spatial_normalise(on_grid(teacher(images), config.grid), one.spatial)
                for teacher, one in zip(teachers, config.teacher.encoders, strict=True)
            ]
            if cache is None:
                widths = [x.shape[-1] for x in seen]
                shape = (len(train), len(views), config.grid**2, sum(widths))
                cache = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
            cache[part, view] = torch.cat(seen, dim=-1).half().cpu().numpy()
        if number % 16 == 15 or part.stop == len(train):
            print(f"teacher features {part.stop}/{len(train)}", flush=True)
    return widths
