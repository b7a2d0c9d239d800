"""`gear generate`: sample images from a checkpoint into one picture, outside the pipeline."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from gear.commands import image_files
from gear.commands.arguments import positive, seed
from gear.core.errors import InputError

MOST_IMAGES = 10_000  # maximum images of a picture

if TYPE_CHECKING:
    from gear.generator.conditions import Conditions
    from gear.generator.config import SampleConfig
    from gear.pretrained import ImageGenerator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear generate`."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("data/models/generator"),
        help="folder of tokenizer/ and generator/, or owner/name of the Hugging Face Hub",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="names or numbers (default: the first 16)",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="a caption, for a checkpoint of text-to-image; may be repeated",
    )
    parser.add_argument(
        "--each", type=positive, default=8, help="images a class or prompt (default 8)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="image i of a row is drawn with seed + i (default 0)"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="classifier-free guidance scale (default 1: none)",
    )
    parser.add_argument(
        "--interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar="SHARE",
        help="where in the sequence it holds",
    )
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument(
        "--top-k", type=int, default=0, help="keep the k likeliest codes (default 0: all)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="keep the likeliest codes up to this mass (default 1: all)",
    )
    parser.add_argument("--out", type=Path, required=True, help="the .png, .jpg or .webp to write")


def run(arguments: argparse.Namespace) -> str:
    """Draw the images; return what was written."""
    from gear.core.memory import keep_freed_memory
    from gear.core.settings import parse_section
    from gear.generator.config import SampleConfig

    keep_freed_memory()
    names = ("guidance", "interval", "temperature", "top_k", "top_p")
    values = {name: getattr(arguments, name) for name in names}
    return generate(
        arguments.checkpoint,
        arguments.classes,
        arguments.prompt,
        arguments.seed,
        parse_section(SampleConfig, {"n": arguments.each, **values}, "--"),
        arguments.out,
    )


def generate(
    checkpoint: Path,
    classes: list[str],
    prompts: list[str],
    seed: int,
    settings: SampleConfig,
    out: Path,
) -> str:
    """Sample `settings.n` images of each class or prompt into one picture, a row each.

    Image i of a row is drawn with seed `seed + i` and does not depend on the others, except for
    rounding.

    Returns:
        What was written, in one line.

    Raises:
        InputError: if there is no such class, the picture is too large, or the file or the
            checkpoint does not fit. Nothing is sampled then.
    """
    import numpy as np
    import torch

    from gear.pretrained import load_generator
    from gear.report.figures import class_grid, grid_size

    image_files.require_picture(out)
    generator = load_generator(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    names, conditions = _rows(generator, classes, prompts)
    if len(names) * settings.n > MOST_IMAGES:
        raise InputError(
            f"{len(names)} rows of --each {settings.n} images: one picture holds {MOST_IMAGES}, "
            "draw fewer, or use the stage `sample`"
        )
    side = math.isqrt(generator.model.tokens) * generator.tokenizer.stride
    image_files.require_fits(out, *grid_size(len(names), settings.n, side))
    rows = np.repeat(np.arange(len(names)), settings.n)
    seeds = np.tile(seed + np.arange(settings.n), len(names))
    images = generator.tokenizer.decode(generator.draw(conditions, rows, seeds, settings))
    pixels = np.stack([np.asarray(image) for image in images])
    image_files.write_picture(class_grid(pixels, rows, names, columns=settings.n), out)
    return f"{out}: {len(pixels)} images of {len(names)} {'prompts' if prompts else 'classes'}"


def _rows(
    generator: ImageGenerator, classes: list[str], prompts: list[str]
) -> tuple[list[str], Conditions]:
    """Return the names of rows, and a function from row numbers to conditions.

    Raises:
        InputError: if the checkpoint is conditioned on captions and classes are named, or the
            other way round.
    """
    from gear.data.captions import normalize_caption

    known = generator.class_names
    if generator.condition == "class":
        if prompts:
            raise InputError("--prompt: this checkpoint knows classes, not captions: use --classes")
        chosen = [class_index(name, known) for name in classes] or range(min(len(known), 16))
        names = [known[place] for place in chosen]
        _, conditions = generator.conditions(chosen, None)
    else:
        if classes or not prompts:
            raise InputError(
                "this checkpoint is conditioned on captions: ask with --prompt 'red heart' "
                "(may be repeated)"
            )
        names = [normalize_caption(prompt) for prompt in prompts]
        _, conditions = generator.conditions(None, prompts)
    return names, conditions


def class_index(name: str, names: list[str]) -> int:
    """Return the index of a class, given its name (any case) or number. Raises `InputError`."""
    from gear import pretrained

    try:
        return pretrained.class_index(name, names)
    except InputError as error:
        raise InputError(f"--{error}") from None
