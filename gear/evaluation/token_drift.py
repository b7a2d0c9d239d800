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


def null_threshold(reference_NL: np.ndarray, current_rows: int, codes: int, seed: int) -> float:
    """Return the Jensen-Shannon distance that 1 % of null comparisons exceed, in [0, sqrt(ln 2)].

    A null comparison is between two random resamples of the reference's images, of the sizes
    compared. Whole images are resampled, since tokens of one image are not independent.

    Args:
        reference_NL: Tokens of the reference, integers in [0, codes).
        current_rows: Number of images that will be compared with it.
        codes: Codebook size.
        seed: Of the resamples.
    """
    random = np.random.default_rng(seed)
    distances = []
    for _ in range(NULLS):
        histograms = [
            np.bincount(
                reference_NL[random.integers(0, len(reference_NL), rows)].reshape(-1),
                minlength=codes,
            )
            for rows in (len(reference_NL), current_rows)
        ]
        distances.append(jensenshannon(*histograms))
    return float(np.quantile(distances, LEVEL))


def measure_token_drift(
    reference_NL: np.ndarray, current_ML: np.ndarray, codes: int, seed: int, page: Path
) -> dict[str, Any]:
    """Return the drift of code indices: distance, threshold, and whether it exceeds that.

    Evenly spaced images represent large sets.

    page: HTML file to write Evidently's report to.
    """
    reference_NL, current_ML = (
        tokens[evenly_spaced(len(tokens), max(1, TOKENS // tokens.shape[1]))]
        for tokens in (reference_NL, current_ML)
    )
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    threshold = null_threshold(reference_NL, len(current_ML), codes, seed)
    definition = DataDefinition(categorical_columns=["code"])
    current, reference = (
        Dataset.from_pandas(pd.DataFrame({"code": x.reshape(-1).astype(str)}), definition)
        for x in (current_ML, reference_NL)
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
