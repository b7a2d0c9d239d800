"""Read an untrusted checkpoint without executing code in it."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gear.core.errors import InputError
from gear.core.text import one_line

NAMES_CODE = re.compile(r"GLOBAL ([\w.]+)")  # in PyTorch's error, the name that it refuses


def read_untrusted_checkpoint(file: Path) -> dict[str, Any]:
    """Return the dictionary in a .safetensors or PyTorch file, on CPU; it may be nested.

    Values may be of any type that `torch.load(weights_only=True)` allows.

    Raises:
        InputError: if the file is missing, not readable, holds other types, or is no dictionary.
    """
    if not file.is_file():
        reason = "a folder" if file.is_dir() else "no such file"
        raise InputError(f"{file}: {reason}: name a checkpoint file")
    try:
        raw = dict(load_file(file)) if file.suffix == ".safetensors" else _unpickle(file)
    except pickle.UnpicklingError as error:
        named = NAMES_CODE.search(str(error))
        if named is None:
            raise InputError(f"{file}: not a readable checkpoint: damaged: get it anew") from None
        raise InputError(
            f"{file}: holds more than tensors and was not executed (it names "
            f"{one_line(named[1], 60)}): save its state dict alone"
        ) from None
    except SafetensorError as error:
        raise InputError(f"{file}: damaged: {one_line(str(error), 150)}: get it anew") from None
    except Exception as error:  # damaged archives raise errors of many types
        reason = one_line(str(error).split("\n")[0], 120) or type(error).__name__
        raise InputError(f"{file}: not a readable checkpoint ({reason}): get it anew") from None
    if not isinstance(raw, dict):
        raise InputError(f"{file}: holds a {type(raw).__name__}, not a state dict")
    return {str(name): value for name, value in raw.items()}


def _unpickle(file: Path) -> Any:
    with file.open("rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"  # zip since PyTorch 1.6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on old pickle protocols and rare kinds of tensors
        return torch.load(file, weights_only=True, map_location="cpu", mmap=is_zip)
