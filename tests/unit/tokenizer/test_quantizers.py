"""Test three quantizers against naive loops in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gear.tokenizer import assignment as module
from gear.tokenizer.quantizers import QUANTIZERS, Quantizer

K, D, B, SIDE = 16, 4, 2, 3


NAMES = ["vq", "lfq", "ibq"]


def build(name: str) -> Quantizer:
    torch.manual_seed(0)
    return QUANTIZERS[name](K, D)


def latents(scale: float = 1.0) -> torch.Tensor:
    return (
        scale * torch.randn(B, D, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    ).requires_grad_()


def naive(name: str, quantizer: Quantizer, z: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute a quantizer's outputs by loops over tokens and codes in float64."""
    rows = [z[b, :, y, x].double() for b in range(B) for y in range(SIDE) for x in range(SIDE)]
    if name == "lfq":
        codes = [
            torch.tensor([1.0 if k >> i & 1 else -1.0 for i in range(D)]).double() for k in range(K)
        ]
    else:
        codes = [row.double() for row in quantizer.embedding.weight]
    if name == "vq":
        rows, codes = [r / r.norm() for r in rows], [c / c.norm() for c in codes]
    distance = {
        "vq": lambda r, c: ((r - c) ** 2).sum(),
        "lfq": lambda r, c: -2 * (r @ c),
        "ibq": lambda r, c: -(r @ c),
    }[name]
    d = torch.stack([torch.stack([distance(r, c) for c in codes]) for r in rows])
    indices = [int(row.argmin()) for row in d]
    hard = torch.stack([codes[i] for i in indices])
    r = torch.stack(rows)
    mean = torch.stack([torch.softmax(-row / 0.01, 0) for row in d]).mean(0)
    token = torch.stack(
        [-(torch.softmax(-row / 0.01, 0) * torch.log_softmax(-row / 0.01, 0)).sum() for row in d]
    ).mean()
    entropy = token + (mean * mean.clamp(min=1e-12).log()).sum()
    zero = torch.zeros((), dtype=torch.float64)
    if name == "ibq":
        s = torch.softmax(-d, -1)
        onehot = F.one_hot(torch.tensor(indices), K).double()
        o = onehot + s - s.detach()
        z_q, z_h = o @ torch.stack(codes), onehot @ torch.stack(codes)
        codebook = ((z_q - r) ** 2).mean() + ((z_h.detach() - r) ** 2).mean()
        losses = {
            "codebook": codebook,
            "commitment": ((z_h - r.detach()) ** 2).mean(),
            "entropy": entropy,
        }
        return {"codes": z_q, "d": d, **losses}
    codebook = zero if name == "lfq" else ((hard - r.detach()) ** 2).mean()
    losses = {
        "codebook": codebook,
        "commitment": ((r - hard.detach()) ** 2).mean(),
        "entropy": entropy,
    }
    return {"codes": r + (hard - r).detach(), "d": d, **losses}


@pytest.fixture(params=[1 << 24, 3 * K], ids=["whole", "chunks"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compute the assignment in one chunk, and in chunks of three tokens."""
    monkeypatch.setattr(module, "CHUNK", request.param)
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_match_a_naive_loop(name: str, chunk: int) -> None:
    quantizer, z = build(name), latents(0.05)
    out, expected = quantizer(z), naive(name, quantizer, z)
    torch.testing.assert_close(
        out.assignment.distances().flatten(0, 1).double(), expected["d"], atol=1e-5, rtol=0
    )
    assert torch.equal(out.indices.flatten(), expected["d"].argmin(-1))
    ours = {
        "codes": out.codes.flatten(2).transpose(1, 2).flatten(0, 1),
        "codebook": out.codebook_loss,
        "commitment": out.commitment_loss,
        "entropy": out.entropy_loss,
    }
    direction = torch.randn(B * SIDE * SIDE, D, generator=torch.Generator().manual_seed(4))
    leaves = [z, *quantizer.parameters()]
    for part, value in ours.items():
        torch.testing.assert_close(value.double(), expected[part], atol=1e-5, rtol=1e-5)
        scalars = [
            (x.double() * direction).sum() if part == "codes" else x.double()
            for x in (value, expected[part])
        ]
        if not scalars[0].requires_grad:
            assert not scalars[1].requires_grad
            continue
        ours_gradient, expected_gradient = (
            torch.autograd.grad(s, leaves, retain_graph=True, allow_unused=True) for s in scalars
        )
        for a, b in zip(ours_gradient, expected_gradient, strict=True):
            zero = torch.zeros(())
            largest = 1.0 if b is None else max(1.0, b.abs().max().item())
            torch.testing.assert_close(
                *(zero if g is None else g / largest for g in (a, b)), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("name", NAMES)
def test_looking_indices_up_gives_the_codes(name: str) -> None:
    quantizer = build(name)
    out = quantizer(latents())
    torch.testing.assert_close(
        quantizer.lookup(out.indices).transpose(1, 2).reshape(out.codes.shape), out.codes
    )


def test_lfq_indices_are_little_endian_signs() -> None:
    z = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1, 1)
    out = QUANTIZERS["lfq"](16, 4)(z)
    assert out.indices.item() == 1 + 4


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_stays_in_fp32_under_autocast(name: str) -> None:
    quantizer, z = build(name), latents()
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
        soft = out.assignment.soft(0.1)
    exact = quantizer(z)
    assert out.assignment.distances().dtype == soft.dtype == torch.float32
    for ours, plain in (
        (out.assignment.distances(), exact.assignment.distances()),
        (out.entropy_loss, exact.entropy_loss),
    ):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_soft_becomes_hard_as_temperature_falls(name: str) -> None:
    out = build(name)(latents())
    hard = F.one_hot(out.indices, K).float()
    gaps = [(out.assignment.soft(tau) - hard).abs().max().item() for tau in (1.0, 0.1, 0.01, 1e-6)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6


@pytest.mark.slow
def test_a_full_size_assignment_stays_within_two_gigabytes() -> None:
    """Test loss, read-out and backward with K 16384, 256 tokens, 32 images, in a subprocess."""
    import subprocess
    import sys

    code = """
import resource, torch
from gear.tokenizer.quantizers import VectorQuantizer
torch.manual_seed(0)
quantizer, z = VectorQuantizer(16384, 8), torch.randn(32, 8, 16, 16, requires_grad=True)
table = torch.randn(16384, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = quantizer(z)
loss = out.assignment.mix(table, 0.1).square().mean() + out.entropy_loss
(loss + out.codebook_loss + out.commitment_loss).backward()
assert z.grad.isfinite().all() and z.grad.any()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0
