"""The generator with its alignment projector."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gear.generator.conditioning import Condition
from gear.generator.config import GeneratorShape
from gear.generator.transformer import Assigned, Generator, GeneratorOutput
from gear.joint.alignment import Projector
from gear.training.run import SavedModel


class GuidedGenerator(nn.Module):
    """The generator with its alignment projector, for one engine and one gradient norm."""

    def __init__(self, generator: Generator, projector: Projector) -> None:
        super().__init__()
        self.generator, self.projector = generator, projector

    def forward(
        self, assignment: Assigned, condition: Condition, *, tap_only: bool = False
    ) -> tuple[GeneratorOutput, torch.Tensor]:
        """Return the generator's output, and its tap projected to the teachers, (B, L, C)."""
        output = self.generator(assignment, condition, tap_only=tap_only)
        return output, self.projector(output.tap)


def build_generator(
    shape: GeneratorShape,
    *,
    codes: int,
    grid: int,
    classes: int,
    empty_caption: torch.Tensor | None,
) -> Generator:
    """Return a new generator, conditioned on captions if `empty_caption` is given, else classes."""
    if empty_caption is not None:
        return Generator(shape, codes=codes, grid=grid, empty_caption=empty_caption)
    return Generator(shape, codes=codes, grid=grid, classes=classes)


def build_guided_generator(
    shape: GeneratorShape,
    *,
    codes: int,
    grid: int,
    classes: int,
    empty_caption: torch.Tensor | None,
    teachers: tuple[int, ...],
    activation_checkpointing: bool,
) -> GuidedGenerator:
    """Return a new generator with a new projector to teachers of these widths."""
    generator = build_generator(
        shape, codes=codes, grid=grid, classes=classes, empty_caption=empty_caption
    )
    generator.activation_checkpointing = activation_checkpointing
    return GuidedGenerator(generator, Projector(shape.width, shape.projector_hidden, teachers))


def saved_generator(
    weights: dict[str, torch.Tensor],
    generator: Generator,
    *,
    condition: str,
    text: dict[str, Any],
    class_names: list[str],
) -> dict[str, SavedModel]:
    """Return the weights and configs to save generator and projector with, by name.

    Args:
        weights: Averaged weights of the `GuidedGenerator`.
        generator: The generator, for its shape.
        condition: The setting data.condition.
        text: The settings `text`.
        class_names: Names of the classes.
    """
    shape = GeneratorShape.pick(generator.config.model_dump(mode="json"))
    config = {
        "generator": shape.model_dump(mode="json"),
        "codes": generator.codes,
        "grid": round(generator.tokens**0.5),
        "condition": condition,
        "text": text,
        "classes": len(class_names),
        "class_names": class_names,
    }
    return {
        part: SavedModel(
            {
                name.removeprefix(f"{part}."): value
                for name, value in weights.items()
                if name.startswith(f"{part}.")
            },
            config,
        )
        for part in ("generator", "projector")
    }
