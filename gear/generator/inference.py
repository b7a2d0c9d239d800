"""Load a generator from a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gear.core.model_folder import load_model, read_number, read_shape, read_tensor
from gear.generator.config import GeneratorShape
from gear.generator.transformer import Generator


def load_generator(folder: Path) -> Generator:
    """Return the generator of a checkpoint folder, on CPU, in eval mode. Raises `InputError`."""
    shape, config = read_shape(folder, "generator", GeneratorShape)
    codes = read_number(folder, config, "codes")
    grid = read_number(folder, config, "grid")
    condition: dict[str, Any]
    if config.get("condition") == "caption":
        condition = {"empty_caption": read_tensor(folder, "cls_embedding.empty")}
    else:
        condition = {"classes": read_number(folder, config, "classes")}
    return load_model(lambda: Generator(shape, codes=codes, grid=grid, **condition), folder)
