"""Model folders: `model.safetensors` and `config.json`, loadable on CPU without DeepSpeed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gear.core.errors import InputError


def save_model(folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Write the fp32 weights of a model, and the config that builds it again."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a checkpoint folder. Raises `InputError` if there is none."""
    try:
        result: dict[str, Any] = json.loads((folder / "config.json").read_text())
        return result
    except OSError:
        raise InputError(
            f"{folder}: no checkpoint here (config.json is missing): "
            "run the stage that makes it with `dvc repro`"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{folder}/config.json: not JSON: {error}") from None


def load_weights(module: nn.Module, folder: Path) -> None:
    """Load all weights of a module.

    Raises:
        InputError: if a key is missing, unexpected, misshapen, or holds NaN or infinite values.
    """
    try:
        weights = load_file(folder / "model.safetensors")
        if bad := nonfinite_key(weights):
            raise InputError(f"{folder}/model.safetensors: {bad} has NaN or infinite values")
        module.load_state_dict(weights, strict=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{folder}/model.safetensors: does not fit its config.json: "
            f"{' '.join(str(error).split())[:300]}"
        ) from None


def nonfinite_key(weights: dict[str, torch.Tensor]) -> str | None:
    """Return the first weight that holds NaN or infinite values; None if all are finite.

    >>> nonfinite_key({"a": torch.zeros(2), "b": torch.tensor([float("nan")])})
    'b'
    """
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            return name
    return None


def read_tensor(folder: Path, name: str) -> torch.Tensor:
    """Return one tensor of a checkpoint. Raises `InputError` if it is not there."""
    try:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            result: torch.Tensor = file.get_tensor(name)
            return result
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}/model.safetensors: {error}") from None
