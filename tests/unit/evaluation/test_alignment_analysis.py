"""Test the measurement of alignment with a second teacher."""

from __future__ import annotations

import numpy as np
import pytest

from gear.encoders.config import TeacherConfig
from gear.evaluation.alignment_analysis import compare_features, two_teachers
from gear.evaluation.metric_protocol import Absent, Metric

RANDOM = np.random.default_rng(0)


def test_the_second_teacher_is_the_next_configured_or_another_view() -> None:
    packaged = TeacherConfig(name="efficientnet-lite0", input_size=64)
    assert list(two_teachers((packaged,))) == ["efficientnet-lite0/b10", "efficientnet-lite0/b4"]
    dino, clip = (TeacherConfig(name=name, input_size=224) for name in ("dinov2", "clip"))
    assert list(two_teachers((dino,))) == ["dinov2/last", "efficientnet-lite0/b10"]
    assert list(two_teachers((dino, clip, packaged))) == ["dinov2/last", "clip/last"]


def test_a_comparison_carries_its_protocol_and_holds_patches_together() -> None:
    ours = RANDOM.normal(size=(40, 4, 6)).astype(np.float32)
    metrics = compare_features(ours, 2 * ours[..., ::-1], {"n": 40})
    assert all(metric.value == pytest.approx(1, abs=1e-2) for metric in metrics.values())
    assert metrics["cknna"].protocol["patches"] == 160
    assert metrics["probe"].protocol["patches"] == 80
    shuffled = compare_features(ours, ours[:, ::-1], {"n": 40})
    assert all(metric.value < 0.3 for metric in shuffled.values())


def test_one_image_has_no_probe_and_few_patches_no_cknna() -> None:
    ours = RANDOM.normal(size=(1, 4, 6)).astype(np.float32)
    metrics = compare_features(ours, 2 * ours, {"n": 1})
    reasons = {name: m.reason for name, m in metrics.items() if isinstance(m, Absent)}
    assert set(reasons) == {"cknna", "probe"}
    assert "two images" in reasons["probe"]
    assert "more patches" in reasons["cknna"]
    assert metrics["cka"].value == pytest.approx(1)


@pytest.mark.parametrize("constant", [0.1, np.nan])
def test_features_of_a_collapsed_model_have_no_similarity(constant: float) -> None:
    ours = np.full((40, 4, 6), constant, np.float32)
    theirs = RANDOM.normal(size=(40, 4, 5)).astype(np.float32)
    for metrics in (compare_features(ours, theirs, {}), compare_features(theirs, ours, {})):
        found = [m.value for m in metrics.values() if isinstance(m, Metric)]
        assert np.isfinite(found).all()
    assert isinstance(metrics["cka"], Absent)
    assert isinstance(metrics["probe"], Absent)
