"""Drift of token histograms by Evidently, with a threshold calibrated by bootstrap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from gear.data.row_selection import evenly_spaced

NULLS = 40
LEVEL = 0.99
TOKENS = 4_000_000  # of either side, at most: Evidently takes 200 bytes each


def balanced_rows(labels_N: np.ndarray, like_M: np.ndarray) -> np.ndarray:
    """Return N positions among N images in which each class has its share in `like_M`.

    Images of one class are repeated, or left out, evenly. Classes without an image are left out.

    Args:
        labels_N: Classes of the images, int64.
        like_M: Classes whose shares are wanted, int64.

    >>> balanced_rows(np.array([0, 0, 0, 1]), np.array([0, 1])).tolist()
    [0, 2, 3, 3]
    """
    have, want = (
        np.bincount(labels, minlength=max(labels_N.max(), like_M.max()) + 1)
        for labels in (labels_N, like_M)
    )
    ends_N = np.cumsum(want[labels_N] / have[labels_N])
    middles_N = (np.arange(len(labels_N)) + 0.5) / len(labels_N)
    rows: np.ndarray = np.searchsorted(ends_N, middles_N * ends_N[-1])
    return rows


def null_threshold(
    reference_NL: np.ndarray, labels_N: np.ndarray, like_M: np.ndarray, codes: int, seed: int
) -> float:
    """Return the Jensen-Shannon distance that 3 % of null comparisons exceed, in [0, sqrt(ln 2)].

    A null comparison is between two random resamples of the reference's images, of the sizes and
    balance of classes compared. Whole images are resampled, since tokens of one image are not
    independent. The threshold is the 99 % quantile of 40 comparisons, which 3.4 % of further ones
    exceed on average.

    Args:
        reference_NL: Tokens of the reference, integers in [0, codes).
        labels_N: Classes of its images, int64.
        like_M: Classes of the images that will be compared with it, int64.
        codes: Codebook size.
        seed: Of the resamples.
    """
    random = np.random.default_rng(seed)
    members = {label: np.flatnonzero(labels_N == label) for label in np.unique(labels_N)}
    distances = []
    for _ in range(NULLS):
        rows = random.integers(0, len(labels_N), len(labels_N))
        old = rows[balanced_rows(labels_N[rows], like_M)]
        new = np.concatenate(
            [
                images[random.integers(0, len(images), int((like_M == label).sum()))]
                for label, images in members.items()
            ]
        )
        histograms = [
            np.bincount(reference_NL[drawn].reshape(-1), minlength=codes) for drawn in (old, new)
        ]
        distances.append(jensenshannon(*histograms))
    return float(np.quantile(distances, LEVEL))


def measure_token_drift(
    reference_NL: np.ndarray,
    current_ML: np.ndarray,
    codes: int,
    seed: int,
    page: Path,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return the drift of code indices: distance, threshold, and whether it exceeds that.

    Evenly spaced images represent large sets.

    Args:
        reference_NL: Tokens of the reference, integers in [0, codes).
        current_ML: Tokens that are compared with it.
        codes: Codebook size.
        seed: Of the resamples that give the threshold.
        page: HTML file to write Evidently's report to.
        labels: Classes of both sides' images, (N,) and (M,) int64, if they may differ in their
            balance: the reference is then compared in the balance of the current side.
    """
    labels_N, like_M = labels or (np.zeros(len(x), int) for x in (reference_NL, current_ML))
    few = max(1, TOKENS // reference_NL.shape[1])
    rows, current_rows = (evenly_spaced(len(x), few) for x in (reference_NL, current_ML))
    reference_NL, labels_N = reference_NL[rows], labels_N[rows]
    current_ML, like_M = current_ML[current_rows], like_M[current_rows]
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    threshold = null_threshold(reference_NL, labels_N, like_M, codes, seed)
    balanced_NL = reference_NL[balanced_rows(labels_N, like_M)]
    definition = DataDefinition(categorical_columns=["code"])
    current, reference = (
        Dataset.from_pandas(pd.DataFrame({"code": x.reshape(-1).astype(str)}), definition)
        for x in (current_ML, balanced_NL)
    )
    metric = ValueDrift(column="code", method="jensenshannon", threshold=threshold)
    snapshot = Report([metric]).run(current, reference)
    page.parent.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(page))
    value = float(snapshot.dict()["metrics"][0]["value"])
    return {
        "distance": value,
        "threshold": threshold,
        "drifted": value > threshold,
        "method": "jensenshannon",
        "nulls": NULLS,
    }
