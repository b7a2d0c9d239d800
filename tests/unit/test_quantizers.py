"""The VQ quantizer against naive formulas, and the two read-outs of one assignment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gear.tokenizer.quantizers import VectorQuantizer, entropy_loss, soft_assignment

K, D, B, SIDE = 11, 4, 2, 3


@pytest.fixture
def quantizer() -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(K, D)


def naive(quantizer: VectorQuantizer, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes = quantizer.embedding.weight.detach().numpy().astype(np.float64)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    rows = z.detach().numpy().astype(np.float64).transpose(0, 2, 3, 1).reshape(B, SIDE * SIDE, D)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    distances = np.array([[[((row - code) ** 2).sum() for code in codes] for row in image] for image in rows])
    return rows, codes, distances


def test_distances_indices_and_losses_match_the_formula(quantizer: VectorQuantizer) -> None:
    z = torch.randn(B, D, SIDE, SIDE)
    out = quantizer(z)
    rows, codes, distances = naive(quantizer, z)
    np.testing.assert_allclose(out.distances.detach().numpy(), distances, atol=1e-5)
    np.testing.assert_array_equal(out.indices.numpy(), distances.argmin(-1))
    expected = ((codes[distances.argmin(-1)] - rows) ** 2).mean()
    assert out.codebook_loss.item() == pytest.approx(expected, abs=1e-5)
    assert out.commitment_loss.item() == pytest.approx(expected, abs=1e-5)


def test_looking_indices_up_gives_the_codes(quantizer: VectorQuantizer) -> None:
    out = quantizer(torch.randn(B, D, SIDE, SIDE))
    torch.testing.assert_close(quantizer.lookup(out.indices).transpose(1, 2).reshape(out.codes.shape), out.codes)


def test_each_loss_moves_its_own_side_only(quantizer: VectorQuantizer) -> None:
    z = torch.randn(B, D, SIDE, SIDE, requires_grad=True)
    out = quantizer(z)
    for loss, reaches_codes in ((out.codebook_loss, True), (out.commitment_loss, False)):
        codes_grad, z_grad = torch.autograd.grad(loss, [quantizer.embedding.weight, z], retain_graph=True, allow_unused=True)
        assert (codes_grad is not None and bool(codes_grad.any())) == reaches_codes
        assert (z_grad is not None and bool(z_grad.any())) != reaches_codes


def test_codes_pass_gradients_straight_through(quantizer: VectorQuantizer) -> None:
    z = torch.randn(B, D, SIDE, SIDE, requires_grad=True)
    direction = torch.randn(B, D, SIDE, SIDE)
    (through,) = torch.autograd.grad((quantizer(z).codes * direction).sum(), z)
    (plain,) = torch.autograd.grad((torch.nn.functional.normalize(z, dim=1) * direction).sum(), z)
    torch.testing.assert_close(through, plain)


def test_distances_stay_in_fp32_under_autocast(quantizer: VectorQuantizer) -> None:
    z = torch.randn(B, D, SIDE, SIDE)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
        soft = soft_assignment(out.distances, 0.1)
    assert out.distances.dtype == soft.dtype == torch.float32
    torch.testing.assert_close(out.distances, quantizer(z).distances, rtol=0, atol=0)


def test_soft_becomes_hard_as_temperature_falls(quantizer: VectorQuantizer) -> None:
    out = quantizer(torch.randn(B, D, SIDE, SIDE))
    hard = torch.nn.functional.one_hot(out.indices, K).float()
    gaps = [(soft_assignment(out.distances, tau) - hard).abs().max().item() for tau in (1.0, 0.1, 0.01, 1e-5)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-6


def test_entropy_loss_and_gradient_match_a_naive_loop() -> None:
    distances = torch.rand(2, 5, K, dtype=torch.float64, requires_grad=True)
    loss = entropy_loss(distances, 0.1)
    rows = torch.softmax(-distances.reshape(-1, K) / 0.1, -1)
    sample = sum(-(row * torch.log(row)).sum() for row in rows) / len(rows)
    mean = sum(rows) / len(rows)
    expected = sample + (mean * torch.log(mean)).sum()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    ours, naive_gradient = (torch.autograd.grad(x, distances, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(ours, naive_gradient, atol=1e-9, rtol=1e-6)
