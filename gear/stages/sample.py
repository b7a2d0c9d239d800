"""Stage sample: seeded, class-balanced images from the generator, as shards and a grid."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch

from gear import paths
from gear.config import Config
from gear.data.shards import encode_png, load_manifest, write_shards
from gear.device import pick_device
from gear.evaluation.models import images_of
from gear.generator.sampling import SEED_STRIDE, sample
from gear.report.figures import class_grid
from gear.stages.files import replace_file, replace_folder, write_json
from gear.training.checkpoints import load_generator, load_tokenizer


def run(config: Config) -> None:
    """`data/models/generator` → `data/samples` and `reports/samples.png`."""
    device = pick_device(config)
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer").to(device)
    generator = load_generator(paths.GENERATOR / "generator").to(device)
    classes = load_manifest(paths.SHARDS)["classes"]
    chosen = config.sample
    labels = np.arange(chosen.n, dtype=np.int64) % len(classes)
    seeds = config.run.seed * SEED_STRIDE + np.arange(chosen.n)
    parts = []
    for start in range(0, chosen.n, chosen.batch):
        part = slice(start, start + chosen.batch)
        drawn = sample(generator, torch.from_numpy(labels[part]), seeds[part], chosen)
        parts.append(drawn.cpu().numpy())
        print(f"sampled {min(start + chosen.batch, chosen.n)}/{chosen.n}", flush=True)
    tokens = np.concatenate(parts)
    pixels = images_of(tokenizer, tokens)

    def fill(draft: Path) -> None:
        write_shards((_row(i, pixels[i], int(labels[i]), classes) for i in range(chosen.n)), draft)
        np.save(draft / "tokens.npy", tokens.astype(np.int32))
        np.save(draft / "labels.npy", labels)
        protocol = {
            "n": chosen.n,
            "labels": "balanced: i mod classes",
            "seeds": f"{config.run.seed} * {SEED_STRIDE} + i",
            "guidance": chosen.guidance,
            "interval": list(chosen.interval),
            "temperature": chosen.temperature,
            "top_k": chosen.top_k,
            "top_p": chosen.top_p,
            "weights": "EMA",
            "rounding": "nearest uint8",
        }
        write_json(draft / "protocol.json", protocol)

    replace_folder(paths.SAMPLES, fill)
    buffer = io.BytesIO()
    class_grid(pixels, labels, classes, columns=12).save(buffer, format="PNG")
    replace_file(paths.SAMPLE_GRID, buffer.getvalue())


def _row(number: int, pixels: np.ndarray, label: int, classes: list[str]) -> dict:
    image = encode_png(pixels)
    return {
        "key": f"sample-{number:06d}",
        "image": image,
        "label": label,
        "caption": classes[label],
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "sha256": hashlib.sha256(image).hexdigest(),
    }
