"""Drift of token histograms by Evidently, against a threshold calibrated on null splits of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

NULLS, LEVEL = 40, 0.99


def jensen_shannon(first_K: np.ndarray, second_K: np.ndarray) -> float:
    """Jensen-Shannon distance of two histograms, the square root of the divergence in base e (as scipy and Evidently)."""
    p, q = first_K / first_K.sum(), second_K / second_K.sum()
    middle = (p + q) / 2

    def divergence(a: np.ndarray) -> float:
        seen = a > 0
        return float((a[seen] * np.log(a[seen] / middle[seen])).sum())

    return float(np.sqrt(max(0.0, (divergence(p) + divergence(q)) / 2)))


def null_threshold(reference: np.ndarray, current_rows: int, codes: int, seed: int) -> float:
    """Distance that random splits of the reference's images, at sizes like the comparison's, exceed 1 time in 100.

    reference: indices (N, L). Whole images are resampled, with replacement, since tokens of one image are not independent.
    """
    random = np.random.default_rng(seed)
    distances = []
    for _ in range(NULLS):
        one, other = (
            reference[random.integers(0, len(reference), n)] for n in (len(reference), current_rows)
        )
        distances.append(
            jensen_shannon(*(np.bincount(x.reshape(-1), minlength=codes) for x in (one, other)))
        )
    return float(np.quantile(distances, LEVEL))


def measure(
    reference: np.ndarray, current: np.ndarray, codes: int, seed: int, page: Path
) -> dict[str, Any]:
    """Evidently's drift of code ids, with the calibrated threshold; its page goes to `page` (volatile)."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    threshold = null_threshold(reference, len(current), codes, seed)
    definition = DataDefinition(categorical_columns=["code"])
    sets = [
        Dataset.from_pandas(pd.DataFrame({"code": x.reshape(-1).astype(str)}), definition)
        for x in (current, reference)
    ]
    snapshot = Report([ValueDrift(column="code", method="jensenshannon", threshold=threshold)]).run(
        *sets
    )
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
