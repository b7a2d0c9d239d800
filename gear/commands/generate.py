"""`gear generate`: images of a checkpoint as one picture, outside the pipeline."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gear.commands.arguments import positive, seed
from gear.core.errors import InputError

MOST_IMAGES = 10_000  # of a picture

if TYPE_CHECKING:
    import numpy as np

    from gear.generator.conditioning import Condition
    from gear.generator.config import SampleConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear generate`."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("data/models/generator"),
        help="folder of tokenizer/ and generator/",
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
    parser.add_argument("--out", type=Path, required=True, help="the .png to write")


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
    """Draw `settings.n` images of each class or prompt into one picture, a row each.

    Image i of a row is drawn with seed `seed + i`: the same image whatever else is drawn with it.

    Returns:
        What was written, in one line.
    """
    import numpy as np
    import torch

    from gear.core.files import replace_file, require_writable
    from gear.core.model_folder import read_config
    from gear.data.row_selection import BATCH, batches
    from gear.generator.inference import load_generator
    from gear.generator.sampling import sample
    from gear.report.figures import class_grid
    from gear.tokenizer.inference import decode_tokens, load_tokenizer

    if out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise InputError(f"--out {out}: write a .png, .jpg or .webp")
    require_writable(out, "--out")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(checkpoint / "tokenizer").to(device)
    generator = load_generator(checkpoint / "generator").to(device)
    if generator.codes != tokenizer.config.codes:
        raise InputError(
            f"{checkpoint}: a generator of {generator.codes} codes beside a tokenizer "
            f"of {tokenizer.config.codes}"
        )
    names, conditions = _rows(read_config(checkpoint / "generator"), classes, prompts)
    if len(names) * settings.n > MOST_IMAGES:
        raise InputError(
            f"{len(names)} rows of --each {settings.n} images: one picture holds {MOST_IMAGES}, "
            "draw fewer, or use the stage `sample`"
        )
    rows = np.repeat(np.arange(len(names)), settings.n)
    seeds = np.tile(seed + np.arange(settings.n), len(names))
    tokens = [
        sample(generator, conditions(rows[batch]), seeds[batch], settings)
        for batch in batches(len(rows), BATCH)
    ]
    pixels = decode_tokens(tokenizer, torch.cat(tokens).cpu().numpy())
    buffer = io.BytesIO()
    file_format = out.suffix[1:].upper().replace("JPG", "JPEG")
    class_grid(pixels, rows, names, columns=settings.n).save(buffer, format=file_format)
    replace_file(out, buffer.getvalue())
    return f"{out}: {len(pixels)} images of {len(names)} {'prompts' if prompts else 'classes'}"


def _rows(
    config: dict[str, Any], classes: list[str], prompts: list[str]
) -> tuple[list[str], Callable[[np.ndarray], Condition]]:
    """Return the rows' names, and a function from row numbers to conditions.

    Raises:
        InputError: if the checkpoint is conditioned on captions and classes are named, or the
            other way round.
    """
    import numpy as np
    import torch

    from gear.data.captions import normalize_caption
    from gear.encoders.config import TextConfig
    from gear.encoders.text import TextEncoder
    from gear.generator.conditioning import pack

    if config.get("condition", "class") == "class":
        if prompts:
            raise InputError("--prompt: this checkpoint knows classes, not captions: use --classes")
        known = config.get("class_names")
        if not isinstance(known, list) or not all(isinstance(name, str) for name in known):
            raise InputError("config.json of the generator: no class_names in it")
        indices = [class_index(name, known) for name in classes]
        labels = np.array(indices or list(range(min(len(known), 16))))
        return [known[label] for label in labels], lambda rows: torch.from_numpy(labels[rows])
    if classes or not prompts:
        raise InputError(
            "this checkpoint is conditioned on captions: ask with --prompt 'red heart' "
            "(may be repeated)"
        )
    captions = [normalize_caption(prompt) for prompt in prompts]
    states = TextEncoder(TextConfig.pick(config.get("text") or {}), torch.device("cpu"))(captions)
    return captions, lambda rows: pack([states[row] for row in rows])


def class_index(name: str, names: list[str]) -> int:
    """Return a class by its name (any case) or its number. Raises `InputError`."""
    folded = [n.casefold() for n in names]
    if name.casefold() in folded:
        return folded.index(name.casefold())
    if name.isdigit() and int(name) < len(names):
        return int(name)
    known = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    raise InputError(f"--classes {name!r}: there are {len(names)}, by name or number: {known}")
