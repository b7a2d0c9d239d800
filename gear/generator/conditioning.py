"""Conditions of the generator: a class, or the text states of a caption.

Either becomes a prefix of vectors before the tokens.

B batch, T prefix length, D model width, C text width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Captions:
    """Text states of B captions, right padded.

    The last position is padding in every row: it becomes the start vector. Every row has at least
    one real position.

    states_BTC: (B, T, C), zeros in padding. real_BT: (B, T) bool, true where there is text.
    """

    states_BTC: torch.Tensor
    real_BT: torch.Tensor

    def __len__(self) -> int:
        return len(self.states_BTC)

    def __getitem__(self, rows: slice) -> Captions:
        """Return a slice of the captions, with the same padding."""
        return Captions(self.states_BTC[rows], self.real_BT[rows])

    def to(self, device: torch.device) -> Captions:
        """Return a copy on a device."""
        return Captions(self.states_BTC.to(device), self.real_BT.to(device))


Condition = torch.Tensor | Captions  # (B,) int64 labels, or captions


def pack(states: list[np.ndarray], at_least: int = 0) -> Captions:
    """Pad text states, (t, C) each, to the longest and one start position.

    Raises ValueError on an empty state.

    Args:
        states: Text states of the captions.
        at_least: Smallest number of positions of text in the result.
    """
    if not all(len(one) for one in states):
        raise ValueError(
            "a caption without tokens: an encoder gives the empty caption at least one"
        )
    longest = max([at_least, *(len(one) for one in states)])
    padded = np.zeros((len(states), longest + 1, states[0].shape[1]), np.float32)
    for row, one in enumerate(states):
        padded[row, : len(one)] = one
    lengths = torch.tensor([len(one) for one in states])
    return Captions(torch.from_numpy(padded), torch.arange(longest + 1) < lengths[:, None])


def concatenate(first: Condition, second: Condition) -> Condition:
    """Concatenate two conditions; captions must have the same padded length."""
    if isinstance(first, Captions) and isinstance(second, Captions):
        return Captions(
            torch.cat([first.states_BTC, second.states_BTC]),
            torch.cat([first.real_BT, second.real_BT]),
        )
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    return torch.cat([first, second])


class ClassEmbedding(nn.Module):
    """One learned prefix vector per class; index `classes` is the null class of guidance."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.embedding_table = nn.Embedding(classes + 1, width)

    def drop(self, labels_B: torch.Tensor, dropped_B: torch.Tensor) -> torch.Tensor:
        """Return labels with the null class where `dropped_B` is true."""
        return labels_B.masked_fill(dropped_B, self.classes)

    def forward(self, labels_B: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.embedding_table(labels_B)[:, None]
        return result


class CaptionEmbedding(nn.Module):
    """An MLP from text states to the model's width.

    Padding is zeros before the MLP, so the start position becomes MLP(0), which is learned.

    empty: Text states of the empty caption, (t, C), which replaces dropped captions. They are saved
        with the weights but not trained.
    """

    empty: torch.Tensor

    def __init__(self, empty_TC: torch.Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("empty", empty_TC.float().clone())
        self.cap_proj = nn.Sequential(
            nn.Linear(empty_TC.shape[1], width),
            nn.GELU(approximate="tanh"),
            nn.Linear(width, width),
        )

    def drop(self, captions: Captions, dropped_B: torch.Tensor) -> Captions:
        """Return captions with the empty one where `dropped_B` is true, padded to fit it."""
        length = max(captions.states_BTC.shape[1], len(self.empty) + 1)
        room = length - captions.states_BTC.shape[1]
        states, real = (
            F.pad(captions.states_BTC, (0, 0, 0, room)),
            F.pad(captions.real_BT, (0, room)),
        )
        empty = F.pad(self.empty, (0, 0, 0, length - len(self.empty))).to(states.dtype)
        gone = torch.arange(length, device=real.device) < len(self.empty)
        return Captions(
            torch.where(dropped_B[:, None, None], empty, states),
            torch.where(dropped_B[:, None], gone, real),
        )

    def forward(self, captions: Captions) -> torch.Tensor:
        result: torch.Tensor = self.cap_proj(captions.states_BTC)
        return result


def visible(captions: Captions) -> torch.Tensor:
    """Return which prefix positions may be attended to, (B, T) bool: text and start position."""
    return torch.cat([captions.real_BT[:, :-1], torch.ones_like(captions.real_BT[:, -1:])], dim=1)
