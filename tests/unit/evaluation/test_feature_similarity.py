"""Test feature similarities against naive loops, and on features with a known result."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gear.evaluation import feature_similarity

RANDOM = np.random.default_rng(0)


A = RANDOM.normal(size=(30, 5)).astype(np.float32)


B = (A @ RANDOM.normal(size=(5, 4)) + 0.5 * RANDOM.normal(size=(30, 4))).astype(np.float32)


def test_linear_cka_is_the_cosine_of_centred_kernels() -> None:
    middle = np.eye(30) - 1 / 30
    kernels = [middle @ (x.astype(np.float64) @ x.T) @ middle for x in (A, B)]
    expected = (kernels[0] * kernels[1]).sum() / (
        np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1])
    )
    assert feature_similarity.linear_cka(A, B) == pytest.approx(expected)
    turn = np.linalg.qr(RANDOM.normal(size=(5, 5)))[0]
    assert feature_similarity.linear_cka(A, 3 * A @ turn + 7) == pytest.approx(1)


def by_loops(first: np.ndarray, second: np.ndarray, k: int) -> float:
    """Return CKNNA by its definition: HSIC of kernels on pairs that are near in both spaces."""
    n = len(first)
    kernels = []
    for x in (first, second):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        kernels.append(
            np.array([[0 if i == j else float(x[i] @ x[j]) for j in range(n)] for i in range(n)])
        )
    near = [
        [sorted((j for j in range(n) if j != i), key=lambda j: -kernel[i, j])[:k] for i in range(n)]
        for kernel in kernels
    ]

    def hsic(a: int, b: int) -> float:
        kept = [
            [1 if j in near[a][i] and j in near[b][i] else 0 for j in range(n)] for i in range(n)
        ]
        x, y = (kernels[which] * np.array(kept) for which in (a, b))
        trace = sum(x[i, j] * y[j, i] for i in range(n) for j in range(n))
        paths = sum(x[i, j] * y[j, q] for i in range(n) for j in range(n) for q in range(n))
        return trace + x.sum() * y.sum() / ((n - 1) * (n - 2)) - 2 * paths / (n - 2)

    return hsic(0, 1) / (hsic(0, 0) * hsic(1, 1)) ** 0.5


@pytest.mark.parametrize("k", [3, 10])
def test_cknna_is_its_definition(k: int) -> None:
    assert feature_similarity.cknna(A, B, k) == pytest.approx(
        by_loops(A.astype(np.float64), B.astype(np.float64), k), abs=1e-6
    )


def test_cknna_knows_equal_and_unrelated_features_and_ignores_scale() -> None:
    big, other = RANDOM.normal(size=(300, 8)), RANDOM.normal(size=(300, 8))
    assert feature_similarity.cknna(big, 5 * big, 10) == pytest.approx(1)
    assert abs(feature_similarity.cknna(big, other, 10)) < 0.1
    with pytest.raises(ValueError, match="more patches"):
        feature_similarity.cknna(A[:10], B[:10], 10)


def test_the_probe_explains_what_is_linear_and_nothing_else() -> None:
    x, y = RANDOM.normal(3, 2, (400, 6)), RANDOM.normal(size=(400, 3))
    line = x @ RANDOM.normal(size=(6, 3)) + 4
    assert feature_similarity.probe(x[:200], line[:200], x[200:], line[200:]) == pytest.approx(
        1, abs=1e-3
    )
    assert feature_similarity.probe(x[:200], y[:200], x[200:], y[200:]) < 0.05
    noisy = line + line.std(0) * RANDOM.normal(size=line.shape)
    assert feature_similarity.probe(x[:200], noisy[:200], x[200:], noisy[200:]) == pytest.approx(
        0.5, abs=0.1
    )


def test_spatial_contrast_is_its_definition_and_knows_place() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 16, 5)) + 2.0
    near, far = [], []
    for image in features - features.mean((0, 1)):
        for a, b in itertools.permutations(range(16), 2):
            apart = abs(a // 4 - b // 4) + abs(a % 4 - b % 4)
            cosine = image[a] @ image[b] / np.linalg.norm(image[a]) / np.linalg.norm(image[b])
            (near if apart < 2 else far).append(cosine)
    assert feature_similarity.spatial_contrast(features) == pytest.approx(
        np.mean(near) - np.mean(far)
    )
    places = np.stack(np.divmod(np.arange(64), 8), 1)
    smooth = np.exp(-((places[:, None] - places) ** 2).sum(-1) / 8.0)[None].repeat(2, 0)
    assert feature_similarity.spatial_contrast(smooth) > 0.4
    mixed = smooth[:, random.permutation(64)]
    assert abs(feature_similarity.spatial_contrast(mixed)) < 0.1


def test_spatial_contrast_needs_a_grid() -> None:
    with pytest.raises(ValueError, match="no square grid"):
        feature_similarity.spatial_contrast(np.zeros((2, 6, 3)))
