"""Test the Frechet distance against closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from gear.core.errors import InputError
from gear.evaluation import frechet


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
    (m1, c1), (m2, c2) = ((g.mean, g.covariance) for g in map(frechet.Gaussian.fit, (a, b)))
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet.distance(a, b) == pytest.approx(expected)
    assert frechet.frechet_distance(
        np.zeros(2), np.diag([4.0, 9.0]), np.ones(2), np.diag([1.0, 1.0])
    ) == pytest.approx(2 + 1 + 4)
    assert frechet.distance(a, a) == pytest.approx(0, abs=1e-9)


def test_one_channel_against_the_closed_form() -> None:
    random = np.random.default_rng(2)
    a, b = random.normal(size=(50, 1)), random.normal(1, 2, size=(40, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet.distance(a, b) == pytest.approx(expected)


def test_a_gaussian_has_the_bits_of_numpy() -> None:
    features = np.random.default_rng(3).normal(size=(50, 5)).astype(np.float32)
    fitted = frechet.Gaussian.fit(features)
    wide = features.astype(np.float64)
    assert np.array_equal(fitted.mean, wide.mean(0))
    assert np.array_equal(fitted.covariance, np.cov(wide, rowvar=False))


@pytest.mark.parametrize("shape", [(), (50,), (50, 2, 2)])
def test_features_that_are_no_table_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features of shape .*: give \(N, C\)"):
        frechet.distance(np.zeros(shape), np.zeros((50, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    features = np.random.default_rng(4).normal(size=(20, 3))
    other = features.copy()
    other[[7, 9], 1] = value
    with pytest.raises(InputError, match="row 7 of the second set has a value that is not finite"):
        frechet.distance(features, other)
    with pytest.raises(InputError, match="row 7 of the first set"):
        frechet.distance(other, features)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((20, 3), np.complex64), "the first set has complex numbers"),
        (np.zeros((20, 0)), "of 0 and of 0 channels"),
        *((np.eye(20) * size, "distance is not a finite number") for size in (1e120, 1e160)),
    ],
)
def test_features_without_a_covariance_are_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frechet.distance(features, features)


@pytest.mark.parametrize("channels", [1, 4])
def test_sets_of_different_channels_are_refused(channels: int) -> None:
    random = np.random.default_rng(5)
    with pytest.raises(InputError, match=f"features of 3 and of {channels} channels"):
        frechet.distance(random.normal(size=(20, 3)), random.normal(size=(20, channels)))


def test_too_few_features_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet.Gaussian.fit(np.zeros((1, 3)))
