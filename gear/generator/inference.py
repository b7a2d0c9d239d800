"""Load a generator from a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gear.core.errors import InputError
from gear.core.model_folder import (
    CONFIG,
    LARGEST_GRID,
    load_model,
    read_number,
    read_shape,
    read_tensor,
)
from gear.core.settings import quoted
from gear.data.row_selection import BATCH
from gear.generator.conditioning import Captions, Condition
from gear.generator.config import GeneratorShape, SampleConfig
from gear.generator.transformer import Generator

CONDITIONS = ("class", "caption")
CACHE = 4 << 30  # bytes of keys and values, at most, where no setting says how many images to draw


def images_at_once(generator: Generator, condition: Condition, settings: SampleConfig) -> int:
    """Return how many images to sample at a time, so that keys and values take up to `CACHE` bytes.

    At most `BATCH`, at least 1. They take 2 x layers x width x positions numbers an image, twice
    with guidance: 36 MiB for `B` at 256 tokens with guidance on the CPU.
    """
    prefix = condition.states_BTC.shape[1] if isinstance(condition, Captions) else 1
    shape = generator.config
    number = 2 if generator.output.weight.is_cuda else 4  # bytes
    passes = 1 if settings.guidance == 1.0 else 2
    positions = prefix + generator.tokens - 1
    taken = 2 * shape.layers * shape.width * positions * number * passes
    return max(1, min(BATCH, CACHE // taken))


def load_generator(folder: Path) -> Generator:
    """Return the generator of a checkpoint folder, on CPU, in eval mode. Raises `InputError`."""
    shape, config = read_shape(folder, "generator", GeneratorShape)
    codes = read_number(folder, config, "codes")
    grid = read_number(folder, config, "grid", most=LARGEST_GRID)
    condition: dict[str, Any]
    if (kind := config.get("condition", "class")) not in CONDITIONS:
        raise InputError(
            f"{folder / CONFIG}: condition is {quoted(kind)}, not one of {', '.join(CONDITIONS)}"
        )
    if kind == "caption":
        condition = {"empty_caption": read_tensor(folder, "cls_embedding.empty")}
    else:
        condition = {"classes": read_number(folder, config, "classes")}
    return load_model(lambda: Generator(shape, codes=codes, grid=grid, **condition), folder)
