"""Convert public checkpoints to native folders, and native folders to LlamaGen's layout."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gear.core.errors import InputError
from gear.core.files import atomic_file, replace_folder, require_writable, sha256_of, write_json
from gear.core.model_folder import (
    CONFIG,
    LARGEST_GRID,
    WEIGHTS,
    nonfinite_key,
    read_config,
    save_model,
)
from gear.core.settings import parse_section, quoted
from gear.core.text import one_line
from gear.core.untrusted_checkpoint import read_untrusted_checkpoint
from gear.encoders.config import TextConfig
from gear.generator import public_layouts as generators
from gear.generator.config import GeneratorShape
from gear.generator.inference import load_generator
from gear.generator.transformer import Generator
from gear.hub_model import shareable_config
from gear.pretrained import require_size
from gear.tokenizer import public_layouts as tokenizers
from gear.tokenizer.config import TokenizerShape
from gear.tokenizer.inference import load_tokenizer
from gear.tokenizer.model import Tokenizer

State = dict[str, torch.Tensor]

PUBLISHED_BASE = 128  # channels of the first level of every published tokenizer
PUBLISHED_GRID = 16  # tokens a side of published generators at 256 px
NATIVE = (WEIGHTS, CONFIG, "provenance.json")  # files of a native folder
NATIVE_CONFIG = "gear"  # key of an exported file that holds the config.json of its folder


@dataclass(frozen=True)
class ImportedModel:
    """A model read from a public file, to be written to a native folder.

    part: "tokenizer" or "generator". layout: whose names of weights the file uses. container: where
    the weights are in the file. model: module of the right shape, without storage. weights: by
    native name.
    """

    part: str
    layout: str
    container: str
    model: nn.Module
    config: dict[str, Any]
    weights: State


def import_checkpoint(file: Path, folder: Path, *, heads: int | None, grid: int | None) -> str:
    """Write `<folder>/tokenizer`, `<folder>/generator` or both from a public file.

    Args:
        file: The checkpoint.
        folder: Folder to write the native checkpoints to.
        heads: Attention heads of a generator; None for the number in an exported file, or that of
            the published model of the same width.
        grid: Tokens a side of a generator; None for that of an exported file, or 16.

    Returns:
        A line per model that says what was written.

    Raises:
        InputError: if the file holds anything but tensors, is of no known layout, lacks one of a
            model's weights, has one that is not finite, or if `heads` is None and not known.
            Nothing is written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file: name the folder to write to")
    raw = read_untrusted_checkpoint(file)
    try:
        models = [
            _generator(file, raw, state, container, heads, grid)
            for state, container in generators.find(raw)
        ]
        if not models or tokenizers.has_own_container(raw):
            models.insert(0, _tokenizer(file, raw))
        for model in models:
            _check_weights(file, model)
    except InputError:
        raise
    except Exception as error:  # a file may hold anything in place of tensors
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise InputError(f"{file}: not a checkpoint of a known layout ({reason})") from None
    for model in models:
        _require_own(folder / model.part)
    return "\n".join(_write(file, folder, model) for model in models)


def _require_own(folder: Path) -> None:
    """Raise `InputError` if a folder to replace holds anything but a native checkpoint."""
    if not folder.exists():
        return
    others = sorted(path.name for path in folder.iterdir() if path.name not in NATIVE)
    if others:
        raise InputError(
            f"{folder}: holds other files ({one_line(', '.join(others), 80)}), which would be "
            "lost: name another folder"
        )


def _write(file: Path, folder: Path, imported: ImportedModel) -> str:
    """Write one native folder; return one line about it."""
    wanted = imported.model.state_dict()
    spare = sorted(imported.weights.keys() - wanted.keys())

    def fill(draft: Path) -> None:
        weights = {name: imported.weights[name].float() for name in wanted}
        save_model(draft, weights, imported.config)
        source = {
            "file": file.name,
            "sha256": sha256_of(file),
            "layout": imported.layout,
            "weights": imported.container,
            "unused": spare,
        }
        write_json(draft / "provenance.json", source)

    replace_folder(folder / imported.part, fill)
    millions = sum(value.numel() for value in wanted.values()) / 1e6
    line = (
        f"{folder / imported.part}: {imported.layout} {imported.part}, {millions:.1f} M "
        f"parameters, all {len(wanted)} weights found in {imported.container}"
    )
    if spare:
        line += f", {len(spare)} keys of the file unused ({one_line(spare[0], 60)} ...)"
    if imported.part == "tokenizer" and imported.config["tokenizer"]["base"] < PUBLISHED_BASE:
        line += (
            f"; narrower than {PUBLISHED_BASE} channels: "
            "group norms here have fewer groups than elsewhere"
        )
    return line


def _tokenizer(file: Path, raw: dict[str, Any]) -> ImportedModel:
    try:
        state, container = tokenizers.unwrap(raw)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    layout = tokenizers.layout_of(state)
    if layout is None:
        first = ", ".join(sorted(state)[:3]) or "no tensors"
        raise InputError(
            f"{file}: none of the known layouts (LlamaGen, IBQ, Open-MAGVIT2, GEAR); "
            f"it begins with {first}"
        )
    native = tokenizers.to_native(state, layout)
    try:
        shape = tokenizers.shape_of(native, layout)
    except (KeyError, ValueError) as error:
        raise InputError(f"{file}: a {layout} tokenizer without {error}") from None
    settings = parse_section(TokenizerShape, shape, f"{file}: tokenizer.")
    with torch.device("meta"):
        model = Tokenizer(settings)
    exported = _native_config(raw)
    temperature, size = exported.get("temperature"), exported.get("size")
    is_known = isinstance(temperature, float) and math.isfinite(temperature)
    config = {
        "tokenizer": settings.model_dump(mode="json"),
        "temperature": temperature if is_known else None,
    }
    if isinstance(size, int) and not isinstance(size, bool):
        with suppress(InputError):
            require_size(size, settings.factor, "")
            config["size"] = size
    return ImportedModel("tokenizer", layout, container, model, config, native)


def _generator(
    file: Path,
    raw: dict[str, Any],
    state: State,
    container: str,
    heads: int | None,
    grid: int | None,
) -> ImportedModel:
    native = generators.to_native(state)
    exported = _native_config(raw)
    if generators.is_text_conditional(state) and exported.get("condition") != "caption":
        raise InputError(
            f"{file}: a text-conditional generator; only class-conditional ones, and those that "
            "`gear export` wrote, are imported"
        )
    try:
        shape = generators.shape_of(native)
    except (KeyError, ValueError) as error:
        raise InputError(f"{file}: a LlamaGen generator without {error}") from None
    own = exported.get("generator")
    settings: dict[str, Any] = own if isinstance(own, dict) else _published_settings(shape)
    settings = {**settings, "layers": shape["layers"], "width": shape["width"]}
    if heads is not None:
        settings["heads"] = heads
    if "heads" in settings and settings["heads"] is None:
        raise InputError(
            f"{file}: no published generator has width {shape['width']}, and weights do not show "
            "the attention heads: give --heads"
        )
    section = parse_section(GeneratorShape, settings, f"{file}: generator.")
    side = grid or exported.get("grid") or PUBLISHED_GRID
    if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= LARGEST_GRID:
        place = "--grid" if grid else f"{file}: gear.grid"
        raise InputError(f"{place} {quoted(side)}: take a whole number from 1 to {LARGEST_GRID}")
    size = {"codes": shape["codes"], "grid": side}
    condition: dict[str, Any] = {"classes": shape["classes"]}
    names = exported.get("class_names")
    kept: dict[str, Any] = {}
    if generators.is_text_conditional(state):
        condition = {"empty_caption": native["cls_embedding.empty"]}
        kept["condition"] = "caption"
        if isinstance(text := exported.get("text"), dict):
            given = {name: text[name] for name in TextConfig.model_fields if name in text}
            encoder = parse_section(TextConfig, given, f"{file}: gear.text.")
            kept["text"] = encoder.model_dump(mode="json", include=set(given))
        names = names if isinstance(names, list) else []
    elif not isinstance(names, list) or len(names) != shape["classes"]:
        names = [str(number) for number in range(shape["classes"])]
    with torch.device("meta"):
        model = Generator(section, **size, **condition)
    config: dict[str, Any] = {
        **kept,
        "generator": section.model_dump(mode="json"),
        **size,
        "classes": len(names),
        "class_names": [str(name) for name in names],
    }
    return ImportedModel("generator", "llamagen", container, model, config, native)


def _published_settings(shape: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a published generator that its weights do not show."""
    return {
        "heads": shape["heads"],
        "tap": -(-shape["layers"] // 3),
        "prefix_rope": "zero",
    }


def _native_config(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json that `gear export` put into a file; empty if there is none."""
    config = raw.get(NATIVE_CONFIG)
    return config if isinstance(config, dict) else {}


def _check_weights(file: Path, imported: ImportedModel) -> None:
    """Raise `InputError` if a weight is absent, misshapen or not finite."""
    wanted = imported.model.state_dict()
    native = imported.weights
    missing = [name for name in wanted if name not in native]
    wrong = [name for name in wanted if name in native and native[name].shape != wanted[name].shape]
    if missing or wrong:
        covered = 1 - (len(missing) + len(wrong)) / len(wanted)
        first = [f"{name} (absent)" for name in missing[:5]]
        first += [
            f"{name} ({tuple(native[name].shape)}, not {tuple(wanted[name].shape)})"
            for name in wrong[:5]
        ]
        raise InputError(
            f"{file}: covers {covered:.1%} of the model's {len(wanted)} weights; "
            f"{', '.join(first)}: nothing was written"
        )
    for name, value in wanted.items():
        given = native[name]
        if value.is_floating_point() and not (given.is_floating_point() and _is_dense(given)):
            raise InputError(
                f"{file}: {one_line(name, 60)} has numbers of type {given.dtype}, {given.layout}: "
                "weights are dense floating-point numbers: nothing was written"
            )
        if nonfinite_key({name: given.float()}):  # as they are written
            raise InputError(f"{file}: {name} has NaN or infinite values: nothing was written")


def _is_dense(value: torch.Tensor) -> bool:
    """Return whether a tensor is an ordinary one: not sparse, quantized or nested."""
    return value.layout == torch.strided and not value.is_quantized and not value.is_nested


def export_checkpoint(folder: Path, file: Path) -> str:
    """Write a native VQ tokenizer or generator as `{"model": state dict}` in LlamaGen's names.

    The folder's config, without paths of this machine, is added under the key `gear`, which
    `gear import` reads and other code ignores.

    Returns:
        One line that says what was written.

    Raises:
        InputError: if it is another kind of model, or the file cannot be written.
    """
    if file.suffix not in (".pt", ".pth"):
        raise InputError(f"export to {file}: name a .pt or .pth file")
    if file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"export to {file}: it is in the checkpoint's folder: name another place")
    require_writable(file, "export to")
    config = read_config(folder)
    note = ""
    if "generator" in config:
        state = load_generator(folder).state_dict()
        if config["generator"].get("prefix_rope") == "identity":
            note = (
                "; it was trained with prefix_rope identity, "
                "which LlamaGen's own code does not compute"
            )
        if any("_text." in name for name in state):
            note += "; it has *_text weights, which LlamaGen's own code does not have"
    elif isinstance(own := config.get("tokenizer"), dict) and own.get("quantizer") == "vq":
        state = load_tokenizer(folder).state_dict()
        # a buffer that LlamaGen's own class requires
        state["quantize.codebook_used"] = torch.zeros(65536)
    else:
        raise InputError(f"{folder}: LlamaGen's layout has VQ tokenizers and generators only")
    with atomic_file(file) as draft:
        torch.save({"model": dict(state), NATIVE_CONFIG: shareable_config(config)}, draft)
    return f"{file}: {len(state)} weights{note}"
