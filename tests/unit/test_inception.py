"""FID and its family over a randomly initialised Inception of the real class, against torch-fidelity's own pipeline and loops."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from gear.cli import keep_freed_memory
from gear.core.errors import InputError
from gear.core.settings import PinnedFile
from gear.data.shards import encode_png, read_split, write_shards
from gear.encoders.inception import POOLED, SPATIAL, Inception, build_inception
from gear.evaluation import frechet
from gear.evaluation.inception_metrics import inception_score, of_samples
from gear.evaluation.inception_statistics import (
    Moments,
    extract_statistics,
    load_training,
    read_reference,
    save_training,
)
from gear.params import parse

REPO = Path(__file__).parents[2]
N = 12


class Fresh(FeatureExtractorInceptionV3):
    """The class without the weights that it would fetch."""

    def load_state_dict(self, state_dict, strict=True, assign=False):  # type: ignore[no-untyped-def]
        return None


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> PinnedFile:
    keep_freed_memory()
    torch.manual_seed(0)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Fresh("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, nonlinearity="relu"
            )  # features of a size that tells images apart
    file = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), file)
    return PinnedFile(path=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def inception(weights: PinnedFile) -> Inception:
    return build_inception(weights).train()


def pictures(seed: int, darker: int) -> np.ndarray:
    """N blotchy images (N, 16, 16, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256 // darker, (N, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def theirs(weights: PinnedFile) -> tuple[np.ndarray, np.ndarray]:
    """What torch-fidelity's extractor, by its own loading, makes of samples and of training images: (N, 2048) float64 each."""
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights.path
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
    """The stages' way: training images from shards, then the metrics of samples."""
    folder = tmp_path_factory.mktemp("data")
    names = {"label": 0, "caption": "", "width": 16, "height": 16}
    rows = [
        {"key": str(i), "image": encode_png(x), "sha256": f"{i:064d}", **names}
        for i, x in enumerate(pictures(2, 1))
    ]
    write_shards(rows, folder / "train")
    save_training(folder, inception, read_split(folder / "train"))
    training = load_training(folder)
    metrics = of_samples(
        inception, pictures(1, 2), training.reference, training, {"guidance": 1.0}, 0
    )
    return {name: metric.record() for name, metric in metrics.items()}


def test_fid_is_its_formula_on_torch_fidelitys_features(
    records: dict[str, dict], theirs: tuple[np.ndarray, np.ndarray]
) -> None:
    """With C = A'A / (N - 1), tr (C1 C2)^(1/2) is the nuclear norm of A1 A2' / (N - 1): no root of a 2048 x 2048 matrix."""
    one, two = (x - x.mean(0) for x in theirs)
    spread = ((one**2).sum() + (two**2).sum() - 2 * np.linalg.norm(one @ two.T, "nuc")) / (N - 1)
    expected = ((theirs[0].mean(0) - theirs[1].mean(0)) ** 2).sum() + spread
    assert expected > 1
    assert records["fid"]["value"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_metrics_are_those_of_torch_fidelity_on_the_same_images(
    records: dict[str, dict], weights: PinnedFile
) -> None:
    theirs = calculate_metrics(
        input1=Images(pictures(1, 2)),
        input2=Images(pictures(2, 1)),
        fid=True,
        isc=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=weights.path,
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
    for record in records.values():
        assert record["protocol"]["weights_sha256"] == inception.weights_sha256
        assert record["protocol"]["resize"].startswith("bilinear")
    assert (
        records["fid"]["protocol"] | {"n": N, "reference_n": N, "guidance": 1.0}
        == records["fid"]["protocol"]
    )
    assert len(records["fid"]["protocol"]["reference_sha256"]) == 64
    assert records["inception_recall"]["protocol"]["k"] == 3
    assert records["sfid"]["value"] > 0 and records["sfid"]["value"] != records["fid"]["value"]


def test_inception_score_is_its_formula() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (40, 7)).astype(np.float32)
    order = np.random.RandomState(2020).permutation(40)
    scores = []
    for split in np.split(logits[order].astype(np.float64), 10):
        p = np.exp(split) / np.exp(split).sum(1, keepdims=True)
        scores.append(np.exp(np.mean([sum(row * np.log(row / p.mean(0))) for row in p])))
    assert inception_score(logits) == pytest.approx((np.mean(scores), np.std(scores)))


def inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Share of points within the k-th-neighbour ball of some centre, by loops."""
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


def test_spatial_features_are_the_first_channels_of_the_map_in_tensorflows_order(
    inception: Inception,
) -> None:
    pixels = torch.from_numpy(pictures(1, 2)[:2]).permute(0, 3, 1, 2)
    network = inception.network
    with torch.inference_mode():
        spatial = inception(pixels)[1]
        x = (
            interpolate_bilinear_2d_like_tensorflow1x(
                pixels.float(), size=(299, 299), align_corners=False
            )
            - 128
        ) / 128
        before = [name for name, _ in network.named_children()]
        for name in before[: before.index("Mixed_6d")]:
            x = getattr(network, name)(x)
        by_hand = network.Mixed_6d.branch1x1(x)
    assert spatial.shape == (2, SPATIAL) and by_hand.shape == (2, 192, 17, 17)
    as_maps = spatial.unflatten(1, (17, 17, 7))
    assert (
        torch.allclose(as_maps.permute(0, 3, 1, 2), by_hand[:, :7], rtol=1e-3, atol=1e-3)
        and as_maps.std() > 0.1
    )


def test_moments_in_batches_are_the_moments_of_the_whole() -> None:
    features = np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32)
    moments = Moments(4)
    for part in np.split(features, [7, 30]):
        moments.add(part)
    mean, covariance = frechet.statistics(features)
    assert np.allclose(moments.gaussian().mean, mean) and np.allclose(
        moments.gaussian().covariance, covariance
    )
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
    assert whole.n == 5 and np.allclose(whole.pooled, alone.pooled, rtol=1e-3, atol=1e-4)
    assert (
        np.allclose(whole.logits, alone.logits, rtol=1e-3, atol=1e-4)
        and len(np.unique(whole.pooled, axis=0)) == 3
    )


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    random = np.random.default_rng(0)
    arrays = {"mu": random.normal(size=POOLED), "sigma": np.eye(POOLED, dtype=np.float32)}
    arrays |= {"mu_s": random.normal(size=SPATIAL), "sigma_s": np.eye(SPATIAL, dtype=np.float32)}
    yield tmp_path / "reference.npz", arrays


def test_a_reference_batch_is_read_and_named_by_its_hash(
    reference: tuple[Path, dict[str, np.ndarray]],
) -> None:
    path, arrays = reference
    np.savez(path, **arrays, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    read = read_reference(PinnedFile(path=str(path), sha256=sha256))
    assert read.named == {"reference": "file", "reference_sha256": sha256}
    assert np.array_equal(read.pool.mean, arrays["mu"]) and np.array_equal(
        read.pool.covariance, arrays["sigma"]
    )
    assert read.spatial is not None and np.array_equal(read.spatial.mean, arrays["mu_s"])
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


def test_weights_that_cannot_be_used_say_why(weights: PinnedFile, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"evaluate\.inception\.path: no file .*download https://.*/weights-inception-2015-12-05-6726825d\.pth",
    ):
        build_inception(PinnedFile(path=str(tmp_path / "none"), sha256=""))
    with pytest.raises(
        InputError, match=r"evaluate\.inception: .* has sha256 [0-9a-f]{64}, params.yaml says 00"
    ):
        build_inception(weights.model_copy(update={"sha256": "00"}))
    file = tmp_path / "other.pth"
    for content in (
        {"a": torch.zeros(1)},
        [1, 2],
        Path("/"),
    ):  # of another model, no state, code to run
        torch.save(content, file)
        with pytest.raises(
            InputError, match=r"evaluate\.inception: .*not torch-fidelity's Inception-v3"
        ):
            build_inception(
                PinnedFile(path=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
            )


def test_a_reference_without_weights_is_refused() -> None:
    text = (
        (REPO / "params.yaml")
        .read_text()
        .replace("reference: {path: ''", "reference: {path: 'x.npz'")
    )
    with pytest.raises(
        InputError,
        match=r"evaluate: reference holds Inception's statistics: name the weights in inception\.path",
    ):
        parse(text)
