"""The generator with its alignment projector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gear import paths
from gear.core.files import read_json, replace_folder
from gear.core.model_folder import save_model
from gear.generator.conditioning import Condition
from gear.generator.conditions import empty_caption
from gear.generator.config import GeneratorShape
from gear.generator.transformer import Assigned, Generator, GeneratorOutput
from gear.joint.alignment import Projector
from gear.params import Config
from gear.tokenizer.config import TokenizerShape
from gear.training.distributed import DistributedContext


class GuidedGenerator(nn.Module):
    """The generator with its alignment projector: one engine, one gradient norm."""

    def __init__(self, generator: Generator, projector: Projector) -> None:
        super().__init__()
        self.generator, self.projector = generator, projector

    def forward(
        self, assignment: Assigned, condition: Condition, *, tap_only: bool = False
    ) -> tuple[GeneratorOutput, torch.Tensor]:
        """Generator output and the tap projected to the teacher's width, (B, L, C)."""
        output = self.generator(assignment, condition, tap_only=tap_only)
        return output, self.projector(output.tap)


def teacher_widths(folder: Path = paths.FEATURES) -> tuple[int, ...]:
    """Channels of each teacher in the cached features."""
    return tuple(read_json(folder / "teachers.json")["widths"])


def build_generator(config: Config, classes: int) -> Generator:
    """A fresh generator of the condition that `data.condition` names."""
    empty = empty_caption(config.data.condition, paths.FEATURES)
    shape: dict[str, Any] = {"classes": classes} if empty is None else {"empty_caption": empty}
    return Generator(config.generator, codes=config.tokenizer.codes, grid=config.grid, **shape)


def guided_generator(config: Config, classes: int, teachers: tuple[int, ...]) -> GuidedGenerator:
    """A fresh generator and projector."""
    generator = build_generator(config, classes)
    return GuidedGenerator(
        generator, Projector(config.generator.width, config.generator.projector_hidden, teachers)
    )


def write_models(
    folder: Path,
    config: Config,
    world: DistributedContext,
    rows: list[dict[str, float]],
    *,
    tokenizer: dict[str, torch.Tensor],
    tokenizer_shape: TokenizerShape,
    guided: dict[str, torch.Tensor] | None = None,
    discriminator: nn.Module | None = None,
    classes: list[str] | None = None,
    temperature: float | None = None,
) -> None:
    """Write a training stage's output folder at once: models and the logged curve."""
    settings = config.model_dump(mode="json")

    def fill(draft: Path) -> None:
        save_model(
            draft / "tokenizer",
            tokenizer,
            {
                "tokenizer": TokenizerShape.pick(
                    tokenizer_shape.model_dump(mode="json")
                ).model_dump(mode="json"),
                "temperature": temperature,
            },
        )
        if guided is not None:
            shape = {
                "generator": GeneratorShape.pick(settings["generator"]).model_dump(mode="json"),
                "codes": config.tokenizer.codes,
                "grid": config.grid,
            }
            shape |= {"condition": settings["data"]["condition"], "text": settings["text"]}
            shape |= {"classes": len(classes or []), "class_names": classes or []}
            for part in ("generator", "projector"):
                own = {
                    k.removeprefix(f"{part}."): v
                    for k, v in guided.items()
                    if k.startswith(f"{part}.")
                }
                save_model(draft / part, own, shape)
        if discriminator is not None:
            save_model(
                draft / "discriminator", discriminator.state_dict(), {"gan": settings["gan"]}
            )
        (draft / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    if world.is_rank_zero:
        replace_folder(folder, fill)
