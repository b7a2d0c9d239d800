"""`gear generate`: images of a checkpoint as one picture, outside the pipeline."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from gear.config import BadInput, SampleConfig
from gear.data.pixels import batches
from gear.evaluation.models import images_of
from gear.generator.sampling import sample
from gear.report.figures import class_grid
from gear.stages.files import replace_file
from gear.training.checkpoints import load_generator, load_tokenizer, read_config


def generate(checkpoint: Path, classes: list[str], each: int, seed: int, settings: SampleConfig, out: Path) -> str:
    """Draw `each` images of every class named and write them to `out`, one row a class; returns what was done.

    Image i of a class is drawn with seed `seed + i`: the same image whatever else is asked for with it.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise BadInput(f"--out {out}: write a .png, .jpg or .webp")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, generator = load_tokenizer(checkpoint / "tokenizer").to(device), load_generator(checkpoint / "generator").to(device)
    if generator.codes != tokenizer.config.codes:
        raise BadInput(f"{checkpoint}: a generator of {generator.codes} codes beside a tokenizer of {tokenizer.config.codes}")
    names = read_config(checkpoint / "generator")["class_names"]
    chosen = [class_index(name, names) for name in classes] or list(range(min(len(names), 16)))
    labels, seeds = np.repeat(chosen, each), np.tile(seed + np.arange(each), len(chosen))
    drawn = [sample(generator, torch.from_numpy(labels[p]), seeds[p], settings) for p in batches(len(labels), settings.batch)]
    pixels = images_of(tokenizer, torch.cat(drawn).cpu().numpy())
    rows = np.repeat(np.arange(len(chosen)), each)
    buffer = io.BytesIO()
    class_grid(pixels, rows, [names[c] for c in chosen], columns=each).save(buffer, format=out.suffix[1:].upper().replace("JPG", "JPEG"))
    replace_file(out, buffer.getvalue())
    return f"{out}: {len(pixels)} images of {len(chosen)} classes"


def class_index(name: str, names: list[str]) -> int:
    """A class by its name (any case) or its number. Raises `BadInput`."""
    folded = [n.casefold() for n in names]
    if name.casefold() in folded:
        return folded.index(name.casefold())
    if name.isdigit() and int(name) < len(names):
        return int(name)
    raise BadInput(
        f"--classes {name!r}: there are {len(names)}, by name or number: {', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
    )
