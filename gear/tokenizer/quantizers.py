"""Quantizers of latents: VQ, LFQ and IBQ. docs/recipes.md compares them.

B batch, D code width, h w token grid, L = h w tokens in raster order, K codes. All arithmetic is
fp32 under any autocast: bf16 distances would flip 0.2 to 6 % of the indices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gear.tokenizer.assignment import (
    SHARPNESS,
    Assignment,
    entropy_loss,
    mean_over_ranks,
    straight_through,
    unit,
)


class Quantized(NamedTuple):
    """Codes, indices, assignment and unweighted scalar losses of latents.

    Gradients flow through `codes` to the latents. It is a tuple because ZeRO-3 does not look for
    tensors in other classes.
    """

    codes: torch.Tensor  # (B, D, h, w)
    indices: torch.Tensor  # (B, L) int64
    assignment: Assignment
    codebook_loss: torch.Tensor
    commitment_loss: torch.Tensor
    entropy_loss: torch.Tensor


class Codebook(nn.Module):
    """The learned codes.

    `forward` returns a copy, because ZeRO-3 gathers the weights only inside it.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(codes, width))
        nn.init.normal_(self.weight)

    def forward(self) -> torch.Tensor:
        """Return all codes, (K, D) fp32."""
        return self.weight.float().clone()


class Quantizer(nn.Module):
    """Base class: maps latents (B, D, h, w) to a `Quantized`, and indices back to codes.

    mean_over_batch: Function from the mean assignment (K,) of the latents at hand to that of the
        whole batch, over ranks and micro-batches; the gradient flows into its argument.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean_over_batch: Callable[[torch.Tensor], torch.Tensor] = mean_over_ranks

    def entropy_loss(self, token_entropy: torch.Tensor, mean_K: torch.Tensor) -> torch.Tensor:
        """Return the entropy loss with the mean assignment of the whole batch."""
        return entropy_loss(token_entropy, self.mean_over_batch(mean_K))

    def forward(self, z_BDhw: torch.Tensor) -> Quantized:
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_BLD = z_BDhw.float().flatten(2).transpose(1, 2)
            quantized = self.assign(z_BLD)
        codes_BDhw = quantized.codes.transpose(1, 2).reshape(z_BDhw.shape)
        return quantized._replace(codes=codes_BDhw)

    def assign(self, z_BLD: torch.Tensor) -> Quantized:
        """Return the assignment of latents (B, L, D), with `codes` as (B, L, D) too."""
        raise NotImplementedError

    def lookup(self, indices_BL: torch.Tensor) -> torch.Tensor:
        """Return the codes of indices, (B, L, D) fp32."""
        raise NotImplementedError


class VectorQuantizer(Quantizer):
    """Nearest code on the unit sphere: d_k = |z - e_k|^2 in [0, 4], both l2-normalised at use."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = Codebook(codes, width)
        nn.init.uniform_(self.embedding.weight, -1.0 / codes, 1.0 / codes)

    def lookup(self, indices_BL: torch.Tensor) -> torch.Tensor:
        return F.embedding(indices_BL, unit(self.embedding()))

    def assign(self, z_BLD: torch.Tensor) -> Quantized:
        z_BLD, codebook = unit(z_BLD), unit(self.embedding())
        assignment = Assignment(z_BLD, codebook, scale=2.0, offset=2.0)
        indices = assignment.nearest()
        nearest = F.embedding(indices, codebook)
        return Quantized(
            codes=straight_through(nearest, z_BLD),
            indices=indices,
            assignment=assignment,
            codebook_loss=F.mse_loss(nearest, z_BLD.detach()),
            commitment_loss=F.mse_loss(z_BLD, nearest.detach()),
            entropy_loss=self.entropy_loss(*assignment.entropies()),
        )


class LookupFreeQuantizer(Quantizer):
    """LFQ: the signs of D = log2 K channels, without codebook parameters.

    index = sum_i 2^i [z_i > 0]; d_k = -2 <z, c_k>.
    """

    bits_KD: torch.Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        assert codes == 2**width
        self.register_buffer("bits_KD", self._signs(torch.arange(codes), width), persistent=False)

    @staticmethod
    def _signs(indices: torch.Tensor, width: int) -> torch.Tensor:
        return (
            (indices[..., None] >> torch.arange(width, device=indices.device)) & 1
        ).float() * 2 - 1

    def lookup(self, indices_BL: torch.Tensor) -> torch.Tensor:
        return F.embedding(indices_BL, self.bits_KD)

    def assign(self, z_BLD: torch.Tensor) -> Quantized:
        on = z_BLD > 0
        signs = on.float() * 2 - 1
        return Quantized(
            codes=straight_through(signs, z_BLD),
            indices=(on.long() << torch.arange(z_BLD.shape[-1], device=z_BLD.device)).sum(-1),
            assignment=Assignment(z_BLD, self.bits_KD, scale=2.0),
            codebook_loss=z_BLD.new_zeros(()),
            commitment_loss=F.mse_loss(z_BLD, signs),
            entropy_loss=self.entropy_loss(*self.entropies(z_BLD)),
        )

    @staticmethod
    def entropies(z_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `Assignment.entropies` returns, without a matrix of all tokens and K codes.

        softmax(2 <z, c> / 0.01) is a product over bits, P(bit i) = sigmoid(4 z_i / 0.01), so the
        entropy of a token is a sum over bits. The mean distribution of K = K_high K_low codes is
        one matrix product of the distributions of the two halves.
        """
        logits_ND = 4.0 * z_BLD.flatten(0, 1) / SHARPNESS
        token = (F.softplus(logits_ND) - logits_ND * torch.sigmoid(logits_ND)).sum(-1).mean()
        half = logits_ND.shape[-1] // 2
        low, high = (
            _joint(F.logsigmoid(-part), F.logsigmoid(part))
            for part in (logits_ND[:, :half], logits_ND[:, half:])
        )
        return token, (high.T @ low).flatten() / len(logits_ND)


def _joint(log_off_ND: torch.Tensor, log_on_ND: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of all 2^D values of independent bits, (N, 2^D), little-endian."""
    log_p = log_on_ND.new_zeros(len(log_on_ND), 1)
    for off, on in zip(
        log_off_ND.T, log_on_ND.T, strict=True
    ):  # each bit doubles the number of values; later bits are more significant
        log_p = torch.cat([log_p + off[:, None], log_p + on[:, None]], dim=1)
    return log_p.exp()


class IndexBackpropQuantizer(Quantizer):
    """IBQ: logits <z, e_k>, d_k = -logit; the softmax passes a gradient to every code."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = Codebook(codes, width)
        nn.init.normal_(self.embedding.weight, std=1.0 / math.sqrt(width))

    def lookup(self, indices_BL: torch.Tensor) -> torch.Tensor:
        return F.embedding(indices_BL, self.embedding())

    def assign(self, z_BLD: torch.Tensor) -> Quantized:
        codebook = self.embedding()
        assignment = Assignment(z_BLD, codebook, scale=1.0)
        indices = assignment.nearest()
        hard = F.embedding(indices, codebook)
        # o E with o = h + s - sg s: its value and the codebook's direct gradient are those of h E,
        # the rest of the gradient flows through s
        soft = assignment.mix(codebook.detach(), temperature=1.0)
        quantised = hard + (soft - soft.detach())
        return Quantized(
            codes=quantised,
            indices=indices,
            assignment=assignment,
            codebook_loss=F.mse_loss(quantised, z_BLD) + F.mse_loss(z_BLD, hard.detach()),
            commitment_loss=F.mse_loss(hard, z_BLD.detach()),
            entropy_loss=self.entropy_loss(*assignment.entropies()),
        )


QUANTIZERS = {"vq": VectorQuantizer, "lfq": LookupFreeQuantizer, "ibq": IndexBackpropQuantizer}
