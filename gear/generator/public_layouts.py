"""Read public generator checkpoints of the LlamaGen family, which have the native names."""

from __future__ import annotations

import re
from typing import Any

import torch

State = dict[str, torch.Tensor]

# in order of preference; a bare state dict last
CONTAINERS = ("ar_ema", "ema", "ar", "state_dict", "model")

# attention heads of LlamaGen's class-conditional models by width: B, L, XL, XXL and 3B
PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 3200: 32}


def is_generator(state: State) -> bool:
    """Return whether these are weights of a LlamaGen transformer."""
    return "tok_embeddings.weight" in state and "layers.0.attention.wqkv.weight" in state


def find(raw: dict[str, Any]) -> list[tuple[State, str]]:
    """Return the generator in a checkpoint and its container, in a list; empty if there is none.

    GEAR's files have `ema` or `ar_ema` next to `ar`, LlamaGen's have `model`, others are a bare
    state dict. Averaged weights are preferred.
    """
    for name in CONTAINERS:
        if isinstance(raw.get(name), dict):
            state = _tensors(raw[name])
            if is_generator(state):
                return [(state, name)]
    state = _tensors(raw)
    return [(state, "bare")] if is_generator(state) else []


def _tensors(raw: dict[str, Any]) -> State:
    """Return the tensors of a state dict, without the prefixes that wrappers add to names."""
    return {
        re.sub(r"^((module|_orig_mod|generator)\.)+", "", key): value
        for key, value in raw.items()
        if isinstance(value, torch.Tensor)
    }


def is_text_conditional(state: State) -> bool:
    """Return whether the checkpoint is conditioned on text."""
    return any(key.startswith("cls_embedding.cap_proj") for key in state)


def to_native(state: State) -> State:
    """Return the weights without the precomputed rotary table."""
    return {key: value for key, value in state.items() if key != "freqs_cis"}


def shape_of(native: State) -> dict[str, Any]:
    """Return the generator settings that the weights' shapes imply.

    The settings are layers, width, codes, classes (0 if conditioned on text) and heads. No shape
    shows the heads: they are those of the published model of this width, None if there is none.

    Raises KeyError if a required key is missing.
    """
    codes, width = native["tok_embeddings.weight"].shape
    layers = 1 + max(int(m.group(1)) for key in native if (m := re.match(r"layers\.(\d+)\.", key)))
    classes = 0
    if not is_text_conditional(native):
        classes = native["cls_embedding.embedding_table.weight"].shape[0] - 1
    return {
        "layers": layers,
        "width": int(width),
        "codes": int(codes),
        "classes": int(classes),
        "heads": PUBLISHED_HEADS.get(int(width)),
    }
