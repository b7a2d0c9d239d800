"""Load a generator from a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gear.core.model_folder import load_weights, read_config, read_tensor
from gear.generator.config import GeneratorShape
from gear.generator.transformer import Generator


def load_generator(folder: Path) -> Generator:
    """Return the generator of a checkpoint folder, on CPU, in eval mode. Raises `InputError`."""
    config = read_config(folder)
    shape: dict[str, Any] = {"classes": config["classes"]}
    if config.get("condition") == "caption":
        shape = {"empty_caption": read_tensor(folder, "cls_embedding.empty")}
    generator = Generator(
        GeneratorShape.pick(config["generator"]),
        codes=config["codes"],
        grid=config["grid"],
        **shape,
    )
    load_weights(generator, folder)
    return generator.eval()
