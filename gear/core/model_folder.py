"""Model folders: `model.safetensors` and `config.json`, loadable on CPU without DeepSpeed."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gear.core.errors import InputError
from gear.core.files import parse_json
from gear.core.settings import Section, quoted
from gear.core.text import one_line, printable

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
LARGEST = 2**20  # upper limit of classes and codes
LARGEST_GRID = 512  # of tokens per side, which no weight shows
FLOATS = ("F16", "BF16", "F32", "F64")  # of safetensors
Shape = TypeVar("Shape", bound=Section)
Model = TypeVar("Model", bound=nn.Module)


def save_model(folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Write the weights of a model, in their dtype, and the config to rebuild it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()},
        folder / WEIGHTS,
    )
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a checkpoint folder. Raises `InputError` if there is none."""
    file = folder / CONFIG
    try:
        if file.exists() and not file.is_file():  # reading a pipe would wait for ever
            raise OSError(errno.EINVAL, "no regular file")
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file}: {error.strerror}: no checkpoint here; "
            "run the stage that makes it with `dvc repro`"
        ) from None
    result = parse_json(content, str(file))
    if not isinstance(result, dict):
        raise InputError(f"{file}: not a mapping of names to values")
    return result


def read_shape(folder: Path, part: str, shape: type[Shape]) -> tuple[Shape, dict[str, Any]]:
    """Return the shape settings of a model, and the whole config.json of its folder.

    Args:
        folder: A checkpoint folder.
        part: `tokenizer` or `generator`.
        shape: Class of the shape settings.

    Raises:
        InputError: if config.json or its entry `part` is absent, or a value is not allowed.
    """
    config = read_config(folder)
    values = config.get(part)
    if not isinstance(values, dict):
        raise InputError(f"{folder / CONFIG}: no {part!r} in it: is this the folder of a {part}?")
    try:
        return shape.pick(values), config
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {part}.{error}") from None


def read_number(folder: Path, config: dict[str, Any], name: str, most: int = LARGEST) -> int:
    """Return the integer `name` of a config.json, in [1, most]. Raises `InputError`."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise InputError(
            f"{folder / CONFIG}: {name} is {quoted(value)}, not a whole number from 1 to {most}"
        )
    return value


def load_model(build: Callable[[], Model], folder: Path) -> Model:
    """Return the model of a checkpoint folder, on CPU, in eval mode.

    Shapes and types are compared with those of the weights before memory is allocated, so that a
    config.json cannot ask for a larger model than the folder holds.

    Args:
        build: Builds the model from the folder's config.json, with any weights.
        folder: A checkpoint folder.

    Raises:
        InputError: if the weights do not fit the model, or as `load_weights` does.
    """
    with torch.device("meta"):
        expected = build()
    _check_shapes(expected, folder)
    model = build()
    load_weights(model, folder)
    return model.eval()


def _check_shapes(expected: nn.Module, folder: Path) -> None:
    wanted = expected.state_dict()
    shapes = {name: list(value.shape) for name, value in wanted.items()}
    with _input_errors(folder), safe_open(folder / WEIGHTS, framework="pt") as file:
        names = file.keys()
        present = {name: file.get_slice(name).get_shape() for name in names}
        types = {name: file.get_slice(name).get_dtype() for name in names}
    for name in sorted(shapes.keys() | present.keys()):
        if shapes.get(name) != present.get(name):
            raise InputError(
                f"{folder / WEIGHTS}: does not fit its {CONFIG}: {printable(name)} is "
                f"{_shape(present, name)} and should be {_shape(shapes, name)}"
            )
        if wanted[name].is_floating_point() and types[name] not in FLOATS:
            raise InputError(
                f"{folder / WEIGHTS}: {printable(name)} has numbers of type {types[name]}, and a "
                f"weight's are {', '.join(FLOATS)}"
            )


def _shape(shapes: dict[str, list[int]], name: str) -> str:
    return "absent" if name not in shapes else str(tuple(shapes[name]))


def load_weights(module: nn.Module, folder: Path) -> None:
    """Load all weights of a module from a checkpoint folder.

    Raises:
        InputError: if the file is absent or damaged, or a key is missing, unexpected, misshapen, or
            holds NaN or infinite values.
    """
    with _input_errors(folder):
        weights = load_file(folder / WEIGHTS)
        if bad := nonfinite_key(weights):
            raise InputError(f"{folder / WEIGHTS}: {bad} has NaN or infinite values")
        module.load_state_dict(weights, strict=True)


@contextmanager
def _input_errors(folder: Path) -> Iterator[None]:
    """Turn errors of reading weights into an `InputError` of one line."""
    file = folder / WEIGHTS
    if file.exists() and not file.is_file():  # reading a pipe would wait for ever
        raise InputError(f"{file}: no regular file")
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{folder / WEIGHTS}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder / WEIGHTS}: damaged ({one_line(str(error), 150)}): get it anew, "
            "or run the stage that makes it with `dvc repro`"
        ) from None
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS}: does not fit its {CONFIG}: {one_line(str(error), 300)}"
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
    with _input_errors(folder), safe_open(folder / WEIGHTS, framework="pt") as file:
        result: torch.Tensor = file.get_tensor(name)
    return result
