"""Metrics against closed forms and foreign implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import jensenshannon
from torchmetrics.image.fid import FrechetInceptionDistance

from gear.evaluation import codebook, coverage, frechet, memorisation, token_drift
from gear.evaluation.metric import Metric, difference


def test_frechet_distance_against_torchmetrics() -> None:
    class Pixels(torch.nn.Module):
        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.double().flatten(1)

    random = np.random.default_rng(0)
    sets = [random.integers(0, 256, (60, 3, 2, 2), dtype=np.uint8) // scale for scale in (1, 2)]
    metric = FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    for images, real in zip(sets, (True, False), strict=True):
        metric.update(torch.from_numpy(images), real=real)
    ours = frechet.distance(*(x.reshape(60, -1) for x in sets))
    assert ours == pytest.approx(metric.compute().item(), rel=1e-4)


def test_frechet_distance_against_a_matrix_root_and_a_closed_form() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(50, 5)), random.normal(1, 2, size=(40, 5))
    (m1, c1), (m2, c2) = frechet.statistics(a), frechet.statistics(b)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet.distance(a, b) == pytest.approx(expected)
    assert frechet.frechet_distance(
        np.zeros(2), np.diag([4.0, 9.0]), np.ones(2), np.diag([1.0, 1.0])
    ) == pytest.approx(2 + 1 + 4)
    assert frechet.distance(a, a) == pytest.approx(0, abs=1e-9)


def test_too_few_features_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet.statistics(np.zeros((1, 3)))


def test_coverage_and_recall_on_points_one_can_count() -> None:
    real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    fake = np.array([[0.5], [1.5], [2.5]])
    assert coverage.coverage(real, fake, 1) == pytest.approx(0.5)
    assert coverage.recall(real, fake, 1) == pytest.approx(0.5)


def test_an_exact_copy_is_found_and_unseen_images_mostly_not() -> None:
    random = np.random.default_rng(0)
    train, val = (random.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (50, 100))
    threshold = memorisation.copy_threshold(memorisation.nearest(val, train))
    assert (memorisation.nearest(train[:5], train) < threshold).all()
    assert (memorisation.nearest(val, train) < threshold).mean() == pytest.approx(0.01)


def test_codebook_numbers() -> None:
    counts = codebook.histogram(np.array([[0, 0, 1], [1, 2, 2]]), 4)
    assert counts.tolist() == [2, 2, 2, 0]
    assert codebook.perplexity(counts) == pytest.approx(3.0)
    assert codebook.usage(counts) == 0.75
    assert codebook.top_mass(counts, 2) == pytest.approx(2 / 3)
    assert codebook.churn(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0])) == 0.5


def test_drift_agrees_with_scipy_and_evidently_and_knows_a_null(tmp_path) -> None:
    random = np.random.default_rng(0)
    same, other = (
        random.choice(6, (200, 9), p=p) for p in ([1 / 6] * 6, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    )
    again = random.choice(6, (200, 9))
    histograms = [np.bincount(x.ravel(), minlength=6) for x in (same, other)]
    assert token_drift.jensen_shannon(*histograms) == pytest.approx(jensenshannon(*histograms))
    shifted = token_drift.measure(same, other, 6, 0, tmp_path / "shifted.html")
    assert shifted["distance"] == pytest.approx(token_drift.jensen_shannon(*histograms), abs=1e-6)
    assert (
        shifted["drifted"]
        and not token_drift.measure(same, again, 6, 0, tmp_path / "again.html")["drifted"]
    )


def test_metrics_of_different_protocols_are_not_compared() -> None:
    assert difference(Metric(1.0, {"n": 5}), Metric(3.0, {"n": 5})) == 2.0
    with pytest.raises(ValueError, match=r"n: 5 against 6"):
        difference(Metric(1.0, {"n": 5}), Metric(1.0, {"n": 6}))
