"""Summarize a version of a data set in a small table, and measure drift between two versions.

At most `ROWS` images represent a version: those whose keys have the lowest hashes, so that most of
them stay if the version grows. Distances are Evidently's. Thresholds are calibrated by bootstrap:
two resamples of the reference, of the sizes compared, exceed the threshold of some column in 1 to 2
of 100 cases. Distances below `LEAST` never count, since with many images any difference is
significant.
"""

from __future__ import annotations

import hashlib
import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from gear.data.images import ENCODER_BATCH, to_tensor
from gear.data.row_selection import batches
from gear.data.shards import read_split
from gear.encoders.efficientnet import build_encoder

ROWS = 10_000
NULLS = 200
LEVEL = 0.99
LEAST = 0.05
COMPONENTS = 8  # principal components of features that are compared
INPUT_SIZE = 128  # side of the encoder's input in pixels
NUMBERS = ["caption_length", "width", "height", "brightness"]


def representative_rows(keys: pd.Series) -> np.ndarray:
    """Return the positions of the rows that represent a version, ascending."""
    digests = keys.map(lambda key: hashlib.sha256(key.encode()).hexdigest()).to_numpy()
    return np.sort(np.argsort(digests, kind="stable")[:ROWS])


def table(
    folder: Path, rows: pd.DataFrame, classes: list[str], sizes: dict[str, tuple[int, int]]
) -> pd.DataFrame:
    """Return one row per representative image of the shards in `folder`.

    Columns: class, caption_length, width and height of the original (NaN if unknown), brightness
    (mean of the pixels in [0, 1]) and features (pooled features of the packaged encoder, (112,)
    float16).

    Args:
        folder: The shards.
        rows: Their rows, from `expectations.frame`.
        classes: Names of the classes.
        sizes: Width and height of originals by key, if known.
    """
    made = rows.iloc[representative_rows(rows["key"])]
    encoder = build_encoder()
    brightness, features = [], []
    for side in ("train", "val"):
        split = read_split(folder / side)
        place = {key: position for position, key in enumerate(split.keys)}
        images = split.part(
            np.array([place[key] for key in made.loc[made["split"] == side, "key"]], dtype=np.int64)
        )
        for part in batches(len(images), ENCODER_BATCH):
            pixels = images[part]
            brightness.append(pixels.mean((1, 2, 3)) / 255.0)
            with torch.inference_mode():
                features.append(
                    encoder(to_tensor(pixels, encoder), INPUT_SIZE).mean((2, 3)).half().numpy()
                )
    known = [sizes.get(key, (np.nan, np.nan)) for key in made["key"]]
    columns = {
        "class": [classes[label] for label in made["label"]],
        "caption_length": made["caption_length"].astype(np.int32).to_numpy(),
        "width": [float(width) for width, _ in known],
        "height": [float(height) for _, height in known],
        "brightness": np.concatenate(brightness).astype(np.float32),
        "features": list(np.concatenate(features)),
    }
    return pd.DataFrame(columns)


def compare(
    reference: pd.DataFrame, current: pd.DataFrame, seed: int, page: Path
) -> list[dict[str, Any]]:
    """Return the drift of each column: method, distance, threshold, drifted, change in words.

    Args:
        reference: `table` of the version to compare with.
        current: `table` of the new version.
        seed: Of the bootstrap.
        page: HTML file to write Evidently's report to.
    """
    first, second = _comparable(reference, current)
    thresholds = _thresholds(first, len(second), seed)
    distances = _evidently(first, second, thresholds, page)
    return [
        {
            "column": column,
            "method": _method(column),
            "distance": distances[column],
            "threshold": thresholds[column],
            "drifted": distances[column] > thresholds[column],
            "change": _change(column, first[column], second[column]),
        }
        for column in first.columns
    ]


def _comparable(
    reference: pd.DataFrame, current: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables with the columns that have values in both, and features by PCA.

    The principal components are those of the reference.
    """
    numbers = [
        column
        for column in NUMBERS
        if reference[column].notna().any() and current[column].notna().any()
    ]
    seen = np.stack(reference["features"].to_list()).astype(np.float64)
    mean = seen.mean(0)
    _, axes = np.linalg.eigh(np.cov(seen - mean, rowvar=False))
    axes = axes[:, ::-1][:, :COMPONENTS]  # eigh: smallest first
    flat = []
    for one in (reference, current):
        projected = (np.stack(one["features"].to_list()).astype(np.float64) - mean) @ axes
        features = pd.DataFrame({f"feature_{n + 1}": projected[:, n] for n in range(COMPONENTS)})
        flat.append(pd.concat([one[["class", *numbers]].reset_index(drop=True), features], axis=1))
    return flat[0], flat[1]


def _method(column: str) -> str:
    return "jensenshannon" if column == "class" else "wasserstein"


def _thresholds(reference: pd.DataFrame, current_rows: int, seed: int) -> dict[str, float]:
    """Return a threshold per column; 1 % of these bootstrap comparisons exceed one of them."""
    random = np.random.default_rng(seed)
    classes, labels = np.unique(reference["class"].to_numpy(dtype=str), return_inverse=True)
    columns = [
        labels,
        *(
            reference[column].dropna().to_numpy(dtype=np.float64)
            for column in reference.columns[1:]
        ),
    ]
    found = np.zeros((NULLS, len(columns)))
    for null in range(NULLS):
        draws = [random.random(rows) for rows in (len(reference), current_rows)]
        for number, values in enumerate(columns):
            one, other = (values[(draw * len(values)).astype(np.int64)] for draw in draws)
            found[null, number] = (
                jensenshannon(*(np.bincount(x, minlength=len(classes)) for x in (one, other)))
                if not number
                else _wasserstein(one, other)
            )
    alone = np.quantile(found, LEVEL, axis=0)
    together = float(np.quantile(np.max(found / np.maximum(alone, 1e-12), axis=1), LEVEL))
    return {
        column: max(LEAST, float(limit * max(1.0, together)))
        for column, limit in zip(reference.columns, alone, strict=True)
    }


def _wasserstein(reference: np.ndarray, current: np.ndarray) -> float:
    """Return the distance in standard deviations of the reference, as Evidently does."""
    return float(wasserstein_distance(reference, current)) / max(float(np.std(reference)), 0.001)


def _evidently(
    reference: pd.DataFrame, current: pd.DataFrame, thresholds: dict[str, float], page: Path
) -> dict[str, float]:
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(
        categorical_columns=["class"], numerical_columns=list(reference.columns[1:])
    )
    # the page holds class names as they are, in a script: escape them
    sets = [
        Dataset.from_pandas(one.assign(**{"class": one["class"].map(html.escape)}), definition)
        for one in (current, reference)
    ]
    metrics = [
        ValueDrift(column=column, method=_method(column), threshold=thresholds[column])
        for column in reference.columns
    ]
    snapshot = Report(metrics).run(*sets)
    page.parent.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(page))
    return {
        column: float(found["value"])
        for column, found in zip(reference.columns, snapshot.dict()["metrics"], strict=True)
    }


def _change(column: str, reference: pd.Series, current: pd.Series) -> str:
    if column != "class":
        return f"mean {current.mean():.3f}, was {reference.mean():.3f}".replace("-0.000", "0.000")
    before, after = (one.value_counts(normalize=True) for one in (reference, current))
    names = sorted(set(before.index) | set(after.index))
    name = max(names, key=lambda n: abs(after.get(n, 0.0) - before.get(n, 0.0)))
    return f"most of all {name!r}: {after.get(name, 0.0):.1%}, was {before.get(name, 0.0):.1%}"
