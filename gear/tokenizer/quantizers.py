"""The VQ quantizer: one assignment, read out hard (indices) and soft (GEAR, Quantizers).

B batch, D code width, h w token grid, L = h w tokens in raster order, K codes. Distances are fp32 under any autocast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Quantized:
    """One assignment. Losses are unweighted scalars; `codes` carries gradients straight through."""

    codes: torch.Tensor  # (B, D, h, w)
    indices: torch.Tensor  # (B, L) int64
    distances: torch.Tensor  # (B, L, K) fp32
    codebook_loss: torch.Tensor
    commitment_loss: torch.Tensor
    entropy_loss: torch.Tensor


class VectorQuantizer(nn.Module):
    """Nearest code on the unit sphere: d_k = |z - e_k|^2 in [0, 4], both l2-normalised at use."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1.0 / codes, 1.0 / codes)

    def codebook(self) -> torch.Tensor:
        """The normalised codes, (K, D) fp32."""
        return F.normalize(self.embedding.weight.float(), dim=-1)

    def lookup(self, indices_BL: torch.Tensor) -> torch.Tensor:
        """Codes of indices, (B, L, D) fp32."""
        return F.embedding(indices_BL, self.codebook())

    def forward(self, z_BDhw: torch.Tensor) -> Quantized:
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_BLD = F.normalize(z_BDhw.float().flatten(2).transpose(1, 2), dim=-1)
            codebook = self.codebook()
            distances = (2.0 - 2.0 * (z_BLD @ codebook.T)).clamp(min=0.0)
            indices = distances.argmin(dim=-1)
            nearest = F.embedding(indices, codebook)
            through = z_BLD + (nearest - z_BLD).detach()
            return Quantized(
                codes=through.transpose(1, 2).reshape(z_BDhw.shape),
                indices=indices,
                distances=distances,
                codebook_loss=F.mse_loss(nearest, z_BLD.detach()),
                commitment_loss=F.mse_loss(z_BLD, nearest.detach()),
                entropy_loss=entropy_loss(distances),
            )


def soft_assignment(distances_BLK: torch.Tensor, temperature: float) -> torch.Tensor:
    """The soft read-out softmax(-d / tau), (B, L, K) fp32; one-hot on the index as tau goes to 0."""
    with torch.autocast(distances_BLK.device.type, enabled=False):
        return (-distances_BLK.float() / temperature).softmax(dim=-1)


def entropy_loss(distances_BLK: torch.Tensor, scale: float = 0.01) -> torch.Tensor:
    """E[H(p)] - H(mean p) with p = softmax(-d / scale): sharp assignments, even use of codes.

    The mean is over the tokens of all ranks: forward through the all-reduced mean, backward through the local one.
    """
    affinity = -distances_BLK.flatten(0, -2) / scale
    p, log_p = affinity.softmax(dim=-1), affinity.log_softmax(dim=-1)  # exp(log_p) is slower where most shares underflow
    sample_entropy = -(p * log_p).sum(-1).mean()
    mean = p.mean(0)
    if dist.is_initialized() and dist.get_world_size() > 1:
        everywhere = mean.detach().clone()
        dist.all_reduce(everywhere)
        mean = mean + (everywhere / dist.get_world_size() - mean).detach()
    return sample_entropy + (mean * mean.clamp(min=1e-12).log()).sum()
