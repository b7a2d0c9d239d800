"""Convert public checkpoints to native folders, and native folders to LlamaGen's layout."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gear.core.errors import InputError
from gear.core.files import replace_folder, write_json
from gear.core.model_folder import read_config, save_model
from gear.core.settings import parse_section
from gear.core.untrusted_checkpoint import read_untrusted_checkpoint
from gear.generator import public_layouts as generators
from gear.generator.config import GeneratorShape
from gear.generator.inference import load_generator
from gear.generator.transformer import Generator
from gear.tokenizer import public_layouts as tokenizers
from gear.tokenizer.config import TokenizerShape
from gear.tokenizer.inference import load_tokenizer
from gear.tokenizer.model import Tokenizer

PUBLISHED_BASE = 128  # channels of the first level of every published tokenizer


def import_checkpoint(file: Path, folder: Path, *, heads: int | None, grid: int) -> str:
    """Write `<folder>/tokenizer` or `<folder>/generator` from a public file.

    Returns:
        One line that says what was written.

    Raises:
        InputError: if the file holds anything but tensors, is of no known layout, or lacks one of
            the model's weights.
    """
    raw = read_untrusted_checkpoint(file)
    try:
        state, container = tokenizers.unwrap(raw)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    if generators.is_generator(state):
        part, layout, model, config, native = _generator(file, state, heads, grid)
    else:
        part, layout, model, config, native = _tokenizer(file, state)
    wanted = model.state_dict()
    _require_all(file, wanted, native)
    weights = {name: native[name] for name in wanted}
    spare = sorted(native.keys() - wanted.keys())

    def fill(draft: Path) -> None:
        save_model(draft, {name: value.float() for name, value in weights.items()}, config)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        source = {
            "file": file.name,
            "sha256": digest,
            "layout": layout,
            "weights": container,
            "unused": spare,
        }
        write_json(draft / "provenance.json", source)

    replace_folder(folder / part, fill)
    millions = sum(value.numel() for value in weights.values()) / 1e6
    narrow = part == "tokenizer" and config["tokenizer"]["base"] < PUBLISHED_BASE
    note = (
        f"; narrower than {PUBLISHED_BASE} channels: "
        "group norms here have fewer groups than elsewhere"
        if narrow
        else ""
    )
    unused = f", {len(spare)} keys of the file unused ({spare[0]} ...)" if spare else ""
    return (
        f"{folder / part}: {layout} {part}, {millions:.1f} M parameters, "
        f"all {len(wanted)} weights found in {container}{unused}{note}"
    )


def _tokenizer(
    file: Path, state: dict[str, torch.Tensor]
) -> tuple[str, str, nn.Module, dict[str, Any], dict[str, torch.Tensor]]:
    layout = tokenizers.layout_of(state)
    if layout is None:
        found = ", ".join(sorted(state)[:3]) or "no tensors"
        raise InputError(
            f"{file}: none of the known layouts (LlamaGen, IBQ, Open-MAGVIT2, GEAR); "
            f"it begins with {found}"
        )
    native = tokenizers.to_native(state, layout)
    try:
        shape = tokenizers.shape_of(native, layout)
    except (KeyError, ValueError) as error:
        raise InputError(f"{file}: a {layout} tokenizer without {error}") from None
    config = parse_section(TokenizerShape, shape, f"{file}: tokenizer.")
    with torch.device("meta"):
        model = Tokenizer(config)
    return (
        "tokenizer",
        layout,
        model,
        {"tokenizer": config.model_dump(mode="json"), "temperature": None},
        native,
    )


def _generator(
    file: Path, state: dict[str, torch.Tensor], heads: int | None, grid: int
) -> tuple[str, str, nn.Module, dict[str, Any], dict[str, torch.Tensor]]:
    if generators.is_text_conditional(state):
        raise InputError(
            f"{file}: a text-conditional generator; only class-conditional ones are imported"
        )
    native = generators.to_native(state)
    try:
        shape = generators.shape_of(native)
    except (KeyError, ValueError) as error:
        raise InputError(f"{file}: a LlamaGen generator without {error}") from None
    settings = {"heads": heads or shape["heads"], "tap": -(-shape["layers"] // 3)}
    settings |= {
        "layers": shape["layers"],
        "width": shape["width"],
        "prefix_rope": "zero",
    }  # as public weights were trained
    config = parse_section(GeneratorShape, settings, f"{file}: generator.")
    size = {"codes": shape["codes"], "grid": grid, "classes": shape["classes"]}
    with torch.device("meta"):
        model = Generator(config, **size)
    names = [str(number) for number in range(shape["classes"])]
    return (
        "generator",
        "llamagen",
        model,
        {"generator": config.model_dump(mode="json"), **size, "class_names": names},
        native,
    )


def _require_all(
    file: Path, wanted: dict[str, torch.Tensor], native: dict[str, torch.Tensor]
) -> None:
    missing = [name for name in wanted if name not in native]
    wrong = [name for name in wanted if name in native and native[name].shape != wanted[name].shape]
    if missing or wrong:
        covered = 1 - (len(missing) + len(wrong)) / len(wanted)
        first = [f"{n} (absent)" for n in missing[:5]]
        first += [
            f"{n} ({tuple(native[n].shape)}, not {tuple(wanted[n].shape)})" for n in wrong[:5]
        ]
        raise InputError(
            f"{file}: covers {covered:.1%} of the model's {len(wanted)} weights; "
            f"{', '.join(first)}: nothing was written"
        )


def export_checkpoint(folder: Path, file: Path) -> str:
    """Write a native VQ tokenizer or generator as `{"model": state dict}` in LlamaGen's names.

    Returns:
        One line that says what was written.
    """
    config, note = read_config(folder), ""
    if "generator" in config:
        state = load_generator(folder).state_dict()
        if config["generator"]["prefix_rope"] == "identity":
            note = (
                "; it was trained with prefix_rope identity, "
                "which LlamaGen's own code does not compute"
            )
    elif config.get("tokenizer", {}).get("quantizer") == "vq":
        state = load_tokenizer(folder).state_dict()
        state["quantize.codebook_used"] = torch.zeros(
            65536
        )  # a running record that LlamaGen's own class asks for
    else:
        raise InputError(f"{folder}: LlamaGen's layout has VQ tokenizers and generators only")
    draft = file.with_name(file.name + ".partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": dict(state)}, draft)
    os.replace(draft, file)
    return f"{file}: {len(state)} weights{note}"
