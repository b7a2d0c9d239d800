"""Read a checkpoint of any origin: tensors only, and no code in it is executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gear.core.errors import InputError


def read_untrusted_checkpoint(file: Path) -> dict[str, Any]:
    """Return what a .safetensors file or a pickled state dict holds, on the CPU.

    Raises:
        InputError: if the file is missing, is not readable, or holds anything but tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        raw = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except pickle.UnpicklingError as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(
            f"{file}: holds more than tensors and was not executed ({line}); "
            "save its state dict alone"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise InputError(
            f"{file}: not a readable checkpoint: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(raw, dict):
        raise InputError(f"{file}: holds a {type(raw).__name__}, not a state dict")
    return raw
