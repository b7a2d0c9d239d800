"""Hard and soft assignment of tokens to codes, in bounded memory.

B batch, L tokens per image, D code width, K codes, W width of the table that is mixed.

The full (B, L, K) matrix of 32 images at 256 tokens and 16384 codes takes half a gigabyte; its
softmax, logarithm and gradients take as much again each. Matrices of more than one chunk are
computed chunk by chunk, and recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 1 << 24  # distances at a time: 64 MiB in fp32
SHARPNESS = 0.01  # temperature of the entropy term


@dataclass(frozen=True)
class Assignment:
    """Distances of every token to every code, d = offset - scale <query, key>, and their read-outs.

    Autocast does not apply to distances: their products are in the dtype of queries and keys, which
    is fp32 in quantizers. It does apply to the product with the table in `mix`.
    """

    queries_BLD: torch.Tensor
    keys_KD: torch.Tensor
    scale: float
    offset: float = 0.0

    @property
    def codes(self) -> int:
        """Codebook size K."""
        return len(self.keys_KD)

    def distances(self) -> torch.Tensor:
        """Return all distances, (B, L, K); for small K, tests and diagnostics."""
        return self.offset + self._affinity(self.queries_BLD)

    def soft(self, temperature: float) -> torch.Tensor:
        """Return the soft read-out softmax(-d / tau), (B, L, K).

        It becomes one-hot on the nearest code as tau goes to 0.
        """
        return (-self._affinity(self.queries_BLD) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def nearest(self) -> torch.Tensor:
        """Return the hard read-out argmin d, (B, L) int64."""
        parts = [self._affinity(part).argmin(dim=-1) for part in self._chunks()]
        return torch.cat(parts).view(self.queries_BLD.shape[:2])

    def mix(self, table_KW: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return rows of a table weighted by the soft read-out, (B, L, W).

        Weights come from the distances; the weighted sum is in the caller's precision, bf16 under
        bf16 autocast.
        """

        def part(queries_ND: torch.Tensor) -> torch.Tensor:
            return (-self._affinity(queries_ND) / temperature).softmax(dim=-1) @ table_KW

        result: torch.Tensor = torch.unflatten(
            torch.cat(self._each(part)), 0, self.queries_BLD.shape[:2]
        )
        return result

    def entropies(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean entropy (nats) and the mean (K,) over tokens of softmax(-d / 0.01)."""

        def part(queries_ND: torch.Tensor) -> torch.Tensor:
            affinity = -self._affinity(queries_ND) / SHARPNESS
            p, log_p = (
                affinity.softmax(dim=-1),
                affinity.log_softmax(dim=-1),
            )  # exp(log_p) is slower if it underflows
            return torch.cat([p.sum(0), -(p * log_p).sum()[None]])

        sums = torch.stack(self._each(part)).sum(0) / self.queries_BLD[..., 0].numel()
        return sums[-1], sums[:-1]

    @torch.no_grad()
    def support(self, temperature: float) -> float:
        """Return the effective support of the soft read-out.

        This is the mean over tokens of exp(H(S)), in [1, K].

        >>> even = Assignment(torch.zeros(1, 1, 2), torch.ones(8, 2), scale=1.0)
        >>> round(even.support(temperature=1.0), 4)
        8.0
        """
        total = 0.0
        for part in self._chunks():
            log_p = (-self._affinity(part) / temperature).log_softmax(dim=-1)
            total += torch.special.entr(log_p.exp()).sum(-1).exp().sum().item()
        return total / self.queries_BLD[..., 0].numel()

    @torch.no_grad()
    def top_mass(self, temperature: float, k: int) -> float:
        """Return the mean probability of the k likeliest codes at a temperature, in [0, 1]."""
        parts = ((-self._affinity(part) / temperature).softmax(-1) for part in self._chunks())
        return (
            sum(p.topk(min(k, self.codes)).values.sum().item() for p in parts)
            / self.queries_BLD[..., 0].numel()
        )

    def _affinity(self, queries: torch.Tensor) -> torch.Tensor:
        """Return d without its offset, to which softmax and argmin are invariant."""
        with torch.autocast(queries.device.type, enabled=False):
            return -self.scale * (queries @ self.keys_KD.T)

    def _chunks(self) -> tuple[torch.Tensor, ...]:
        result: tuple[torch.Tensor, ...] = torch.split(
            self.queries_BLD.flatten(0, 1), max(1, CHUNK // self.codes)
        )
        return result

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        chunks = self._chunks()
        if len(chunks) == 1:
            return [function(chunks[0])]
        return [checkpoint(function, chunk, use_reentrant=False) for chunk in chunks]


def straight_through(hard: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """Return the value of `hard` with the gradient of `soft`."""
    return hard.detach() + (soft - soft.detach())


def mean_over_ranks(mean: torch.Tensor) -> torch.Tensor:
    """Return the mean over all ranks; the gradient flows into the local value.

    If gradients are disabled, return the local mean: ranks may then encode unequal numbers of
    batches, and a collective operation would deadlock.
    """
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    if alone or not torch.is_grad_enabled():
        return mean
    everywhere = mean.detach().clone()
    dist.all_reduce(everywhere)
    return straight_through(everywhere / dist.get_world_size(), mean)


def entropy_loss(token_entropy: torch.Tensor, mean_K: torch.Tensor) -> torch.Tensor:
    """Return E[H(p)] - H(mean p); minimising it sharpens assignments and evens the use of codes.

    Args:
        token_entropy: E[H(p)], the mean entropy of a token's assignment p in nats, a scalar.
        mean_K: Mean of p over the whole batch, (K,).
    """
    return token_entropy + (mean_K * mean_K.clamp(min=1e-12).log()).sum()


def unit(x: torch.Tensor) -> torch.Tensor:
    """Return `x` scaled to length 1 along the last dimension."""
    return F.normalize(x, dim=-1)
