"""Convert public tokenizer checkpoints to native parameter names.

The layouts are those of LlamaGen, taming (IBQ) and Open-MAGVIT2 (LFQ); GEAR's releases use all
three. All functions are pure functions of state dicts and open no file.
"""

from __future__ import annotations

import re
from typing import Any

import torch

State = dict[str, torch.Tensor]

# in order of preference; a bare state dict last
CONTAINERS = ("vq_ema", "ema", "vq", "state_dict", "model")

FOREIGN = ("loss.", "model_ema.", "quantize.codebook_used", "discriminator.")

TAMING_MIDDLE = {"block_1": "0", "attn_1": "1", "block_2": "2"}


def unwrap(raw: dict[str, Any]) -> tuple[State, str]:
    """Return the state dict in a checkpoint and its container; EMA weights are preferred.

    A container of an unknown layout, such as the `ema` of a generator, is returned only if the file
    has no tokenizer and no bare tensors.

    Raises:
        ValueError: if only some weights of the tokenizer have an average.
    """
    unknown: tuple[State, str] | None = None
    for name in CONTAINERS:
        if isinstance(raw.get(name), dict):
            inner, where = unwrap(raw[name])
            candidate = inner, name if where == "bare" else f"{name}.{where}"
            if layout_of(inner) is not None:
                return candidate
            unknown = unknown or candidate
    state = {
        re.sub(r"^((module|_orig_mod)\.)+", "", key): value
        for key, value in raw.items()
        if isinstance(value, torch.Tensor)
    }
    if unknown is not None and not state:
        return unknown
    averaged = _averaged(state)
    return (averaged, "model_ema") if averaged else (state, "bare")


def has_own_container(raw: dict[str, Any]) -> bool:
    """Return whether the tokenizer has a separate container, next to that of a generator."""
    return any(isinstance(raw.get(name), dict) for name in ("vq_ema", "vq"))


def _averaged(state: State) -> State:
    """Return the state dict with EMA weights (`model_ema.<name without dots>`); {} if none.

    Raises:
        ValueError: if only some weights of the tokenizer have an average.
    """
    dotted = {key.replace(".", ""): key for key in state if not key.startswith("model_ema.")}
    found = {
        dotted[key[10:]]: value
        for key, value in state.items()
        if key.startswith("model_ema.") and key[10:] in dotted
    }
    if not found:
        return {}
    rest = [
        key
        for key in state
        if key.startswith(("encoder.", "decoder.", "quant"))
        and key not in found
        and not key.startswith(FOREIGN)
    ]
    if rest:
        raise ValueError(
            f"{len(found)} weights have an average and {len(rest)} have none, first {rest[0]}: "
            "half an average is no model"
        )
    return {
        key: found.get(key, value)
        for key, value in state.items()
        if not key.startswith("model_ema.")
    }


def layout_of(state: State) -> str | None:
    """Return `llamagen`, `taming` or `magvit2`; None if the encoder is none of them."""
    if any(key.startswith("encoder.conv_blocks.") for key in state):
        return "llamagen"
    if any(key.startswith("encoder.mid_block.") for key in state):
        return "magvit2"
    return "taming" if any(key.startswith("encoder.mid.block_1.") for key in state) else None


def to_native(state: State, layout: str) -> State:
    """Return the weights under native names, without those of other modules than the tokenizer."""
    kept = {key: value for key, value in state.items() if not key.startswith(FOREIGN)}
    if layout == "magvit2":  # its codes are signs, so its quantizer has no weights
        return {
            key: value for key, value in kept.items() if key.startswith(("encoder.", "decoder."))
        }
    if layout == "llamagen":
        return kept
    levels = 1 + max(
        int(m.group(1)) for key in kept if (m := re.match(r"decoder\.up\.(\d+)\.", key))
    )
    return {_from_taming(key, levels): value for key, value in kept.items()}


def _from_taming(key: str, levels: int) -> str:
    key = re.sub(
        r"\.mid\.(block_1|attn_1|block_2)\.", lambda m: f".mid.{TAMING_MIDDLE[m.group(1)]}.", key
    )
    key = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.conv_blocks.\1.", key)
    # taming counts the decoder's levels from the image down, LlamaGen in the order they run
    key = re.sub(
        r"^decoder\.up\.(\d+)\.",
        lambda m: f"decoder.conv_blocks.{levels - 1 - int(m.group(1))}.",
        key,
    )
    return re.sub(r"^(..coder\.conv_blocks\.\d+)\.block\.", r"\1.res.", key)


def shape_of(native: State, layout: str) -> dict[str, Any]:
    """Return the tokenizer settings that the weights' shapes imply.

    Raises KeyError if a required key is missing.
    """
    level, block = ("down", "block") if layout == "magvit2" else ("conv_blocks", "res")
    base, z = native["encoder.conv_in.weight"].shape[0], native["encoder.conv_out.weight"].shape[0]
    count = 1 + max(
        int(m.group(1)) for key in native if (m := re.match(rf"encoder\.{level}\.(\d+)\.", key))
    )
    widths = [native[f"encoder.{level}.{i}.{block}.0.conv1.weight"].shape[0] for i in range(count)]
    blocks = 1 + max(
        int(m.group(1))
        for key in native
        if (m := re.match(rf"encoder\.{level}\.0\.{block}\.(\d+)\.", key))
    )
    codes, width = (2**z, z) if layout == "magvit2" else native["quantize.embedding.weight"].shape
    return {
        "quantizer": {"llamagen": "vq", "taming": "ibq", "magvit2": "lfq"}[layout],
        "codes": int(codes),
        "code_dim": int(width),
        "base": int(base),
        "multipliers": [w // base for w in widths],
        "blocks": blocks,
        "z_channels": int(z),
    }
