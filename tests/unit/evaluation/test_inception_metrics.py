"""Test FID and related metrics on a random Inception, against torch-fidelity and loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gear.core.settings import PinnedFile
from gear.data.shards import encode_png, image_row, read_split, write_shards
from gear.encoders.inception import Inception
from gear.evaluation.inception_metrics import (
    inception_score,
    reconstruction_metrics,
    sample_metrics,
)
from gear.evaluation.inception_statistics import (
    load_training_statistics,
    save_training_statistics,
)
from gear.evaluation.metric_protocol import Absent, absent_records, describe, require_records
from gear.tokenizer.model import Tokenizer
from tests.support.images import N, pictures
from tests.support.settings import tiny_settings


@pytest.fixture(scope="module")
def theirs(inception_weights: PinnedFile) -> tuple[np.ndarray, np.ndarray]:
    """Return torch-fidelity's features of samples and training images, (N, 2048) float64 each."""
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=inception_weights.path
    )
    images = torch.from_numpy(np.concatenate([pictures(1, 2), pictures(2, 1)])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        features = network(images)[0].double().numpy()
    return features[:N], features[N:]


class Images(torch.utils.data.Dataset):
    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.pixels[i]


@pytest.fixture(scope="module")
def records(inception: Inception, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Compute the metrics as the stages do: training images from shards, then samples."""
    folder = tmp_path_factory.mktemp("data")
    names = {"label": 0, "caption": "", "width": 16, "height": 16}
    rows = [
        {"key": str(i), "image": encode_png(x), "sha256": f"{i:064d}", **names}
        for i, x in enumerate(pictures(2, 1))
    ]
    write_shards(rows, folder / "train")
    save_training_statistics(folder, inception, read_split(folder / "train"))
    training = load_training_statistics(folder)
    metrics = sample_metrics(
        inception, pictures(1, 2), training.reference, training, {"guidance": 1.0}, 0
    )
    return {name: metric.record() for name, metric in metrics.items()}


def test_fid_is_its_formula_on_torch_fidelitys_features(
    records: dict[str, dict], theirs: tuple[np.ndarray, np.ndarray]
) -> None:
    """Test against a formula without a matrix root.

    With C = A'A / (N - 1), tr (C1 C2)^(1/2) is the nuclear norm of A1 A2' / (N - 1).
    """
    one, two = (x - x.mean(0) for x in theirs)
    spread = ((one**2).sum() + (two**2).sum() - 2 * np.linalg.norm(one @ two.T, "nuc")) / (N - 1)
    expected = ((theirs[0].mean(0) - theirs[1].mean(0)) ** 2).sum() + spread
    assert expected > 1
    assert records["fid"]["value"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_metrics_are_those_of_torch_fidelity_on_the_same_images(
    records: dict[str, dict], inception_weights: PinnedFile
) -> None:
    theirs = calculate_metrics(
        input1=Images(pictures(1, 2)),
        input2=Images(pictures(2, 1)),
        fid=True,
        isc=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=inception_weights.path,
        cuda=False,
        cache=False,
        verbose=False,
    )
    names = {
        "fid": "frechet_inception_distance",
        "inception_score": "inception_score_mean",
        "inception_score_std": "inception_score_std",
        "inception_precision": "precision",
        "inception_recall": "recall",
    }
    for ours, name in names.items():
        assert records[ours]["value"] == pytest.approx(theirs[name], rel=1e-3), ours


def test_each_metric_carries_its_protocol(records: dict[str, dict], inception: Inception) -> None:
    absent = absent_records(records)
    assert set(absent) == {"fid_floor"}
    assert "the features have channels, 2048" in describe(absent["fid_floor"])
    for record in require_records(records, "").values():
        assert record["protocol"]["weights_sha256"] == inception.weights_sha256
        assert record["protocol"]["resize"].startswith("bilinear")
    assert (
        records["fid"]["protocol"] | {"n": N, "reference_n": N, "guidance": 1.0}
        == records["fid"]["protocol"]
    )
    assert len(records["fid"]["protocol"]["reference_sha256"]) == 64
    assert records["inception_recall"]["protocol"]["k"] == 3
    assert records["sfid"]["value"] > 0
    assert records["sfid"]["value"] != records["fid"]["value"]


def test_inception_score_is_its_formula() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (40, 7)).astype(np.float32)
    order = np.random.RandomState(2020).permutation(40)
    scores = []
    for split in np.split(logits[order].astype(np.float64), 10):
        p = np.exp(split) / np.exp(split).sum(1, keepdims=True)
        scores.append(np.exp(np.mean([sum(row * np.log(row / p.mean(0))) for row in p])))
    assert inception_score(logits) == pytest.approx((np.mean(scores), np.std(scores)))


def inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Return the share of points in the k-th-neighbour ball of any centre, by loops."""
    reach = [sorted(np.linalg.norm(centre - other) for other in centres)[k] for centre in centres]
    hits = [
        any(np.linalg.norm(p - c) <= r for c, r in zip(centres, reach, strict=True)) for p in points
    ]
    return float(np.mean(hits))


def test_precision_and_recall_are_what_loops_count(
    records: dict[str, dict], theirs: tuple[np.ndarray, np.ndarray]
) -> None:
    samples, training = theirs
    assert records["inception_precision"]["value"] == pytest.approx(inside(samples, training, 3))
    assert records["inception_recall"]["value"] == pytest.approx(inside(training, samples, 3))
    assert 0 < records["inception_recall"]["value"] + records["inception_precision"]["value"] < 2


@pytest.mark.slow
def test_floors_of_captions_are_of_their_images_and_of_one_image_absent(
    inception: Inception, tmp_path: Path
) -> None:
    rows = (
        image_row(str(number // 2), encode_png(pixels), (16, 16), 0, f"caption {number}")
        for number, pixels in enumerate(np.repeat(pictures(2, 1), 2, axis=0))
    )
    write_shards(rows, tmp_path / "train")
    save_training_statistics(tmp_path, inception, read_split(tmp_path / "train"))
    training = load_training_statistics(tmp_path)
    assert len(training.features) == N, "an image with two captions is its own neighbour"
    samples, own = pictures(1, 2), pictures(3, 1)
    of_three, of_one = (
        sample_metrics(inception, samples, training.reference, training, {}, 0, own[:images])
        for images in (3, 1)
    )
    floor = of_three["fid_floor"].record()["protocol"]
    assert (floor["n"], floor["distinct_images"]) == (3, 3)
    assert isinstance(of_one["fid_floor"], Absent)


def test_one_reconstruction_has_no_fid_and_a_reason(inception: Inception) -> None:
    tokenizer = Tokenizer(tiny_settings().tokenizer).eval()
    rfid = reconstruction_metrics(inception, tokenizer, pictures(1, 1)[:1], {})["rfid"]
    assert isinstance(rfid, Absent)
    assert "two images" in rfid.reason
