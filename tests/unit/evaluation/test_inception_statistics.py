"""Test statistics of Inception features, in batches and from reference files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gear.core.errors import InputError
from gear.core.settings import PinnedFile
from gear.encoders.inception import POOLED, SPATIAL, Inception
from gear.evaluation import frechet
from gear.evaluation.inception_statistics import (
    Moments,
    extract_statistics,
    read_reference,
)
from tests.support.images import pictures


def test_moments_in_batches_are_the_moments_of_the_whole() -> None:
    features = np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32)
    moments = Moments(4)
    for part in np.split(features, [7, 30]):
        moments.add(part)
    fitted = frechet.Gaussian.fit(features)
    assert np.allclose(moments.gaussian().mean, fitted.mean)
    assert np.allclose(moments.gaussian().covariance, fitted.covariance)
    with pytest.raises(ValueError, match="at least two"):
        Moments(4).gaussian()


def test_kept_rows_are_those_asked_for_in_any_batches(
    inception: Inception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gear.evaluation.inception_statistics.ENCODER_BATCH", 2)
    pixels, keep = pictures(3, 1)[:5], np.array([0, 2, 3])
    whole, alone = (
        extract_statistics(inception, pixels, keep, "all"),
        extract_statistics(inception, pixels[keep], np.arange(3), "some"),
    )
    assert whole.n == 5
    assert np.allclose(whole.pooled, alone.pooled, rtol=1e-3, atol=1e-4)
    assert np.allclose(whole.logits, alone.logits, rtol=1e-3, atol=1e-4)
    assert len(np.unique(whole.pooled, axis=0)) == 3


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    random = np.random.default_rng(0)
    arrays = {"mu": random.normal(size=POOLED), "sigma": np.eye(POOLED, dtype=np.float32)}
    arrays |= {"mu_s": random.normal(size=SPATIAL), "sigma_s": np.eye(SPATIAL, dtype=np.float32)}
    return tmp_path / "reference.npz", arrays


def test_a_reference_batch_is_read_and_named_by_its_hash(
    reference: tuple[Path, dict[str, np.ndarray]],
) -> None:
    path, arrays = reference
    np.savez(path, **arrays, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    read = read_reference(PinnedFile(path=str(path), sha256=sha256))
    assert read.protocol == {"reference": "file", "reference_sha256": sha256}
    assert np.array_equal(read.pool.mean, arrays["mu"])
    assert np.array_equal(read.pool.covariance, arrays["sigma"])
    assert read.spatial is not None
    assert np.array_equal(read.spatial.mean, arrays["mu_s"])
    np.savez(path, mu=arrays["mu"], sigma=arrays["sigma"])
    plain = read_reference(
        PinnedFile(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    )
    assert plain.spatial is None


@pytest.mark.parametrize(
    "broken",
    [
        {"mu": np.zeros(3), "sigma": np.eye(3)},
        {"arr_0": np.zeros(2)},
        {"mu": np.array([{}], object)},
        None,
    ],
)
def test_a_reference_that_is_none_says_why(broken: dict | None, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    if broken is None:
        path.write_bytes(b"nothing of the kind")
    else:
        np.savez(path, **broken)
    with pytest.raises(
        InputError, match=r"evaluate\.reference: .*no reference batch with mu and sigma"
    ):
        read_reference(
            PinnedFile(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        )
