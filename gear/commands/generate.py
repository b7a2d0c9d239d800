"""`gear generate`: images of a checkpoint as one picture, outside the pipeline."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import replace_file
from gear.core.model_folder import read_config
from gear.data.captions import normalize_caption
from gear.data.rows import BATCH, batches
from gear.encoders.config import TextConfig
from gear.encoders.text import TextEncoder
from gear.generator.conditioning import Condition, pack
from gear.generator.config import SampleConfig
from gear.generator.inference import load_generator
from gear.generator.sampling import sample
from gear.report.figures import class_grid
from gear.tokenizer.inference import decode_tokens, load_tokenizer


def generate(
    checkpoint: Path,
    classes: list[str],
    prompts: list[str],
    each: int,
    seed: int,
    settings: SampleConfig,
    out: Path,
) -> str:
    """Draw `each` images of every class or prompt named and write them to `out`, one row each; returns what was done.

    Image i of a row is drawn with seed `seed + i`: the same image whatever else is asked for with it.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise InputError(f"--out {out}: write a .png, .jpg or .webp")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, generator = (
        load_tokenizer(checkpoint / "tokenizer").to(device),
        load_generator(checkpoint / "generator").to(device),
    )
    if generator.codes != tokenizer.config.codes:
        raise InputError(
            f"{checkpoint}: a generator of {generator.codes} codes beside a tokenizer of {tokenizer.config.codes}"
        )
    names, given = _rows(read_config(checkpoint / "generator"), classes, prompts)
    rows, seeds = (
        np.repeat(np.arange(len(names)), each),
        np.tile(seed + np.arange(each), len(names)),
    )
    drawn = [
        sample(generator, given(rows[p]), seeds[p], settings) for p in batches(len(rows), BATCH)
    ]
    pixels = decode_tokens(tokenizer, torch.cat(drawn).cpu().numpy())
    buffer = io.BytesIO()
    class_grid(pixels, rows, names, columns=each).save(
        buffer, format=out.suffix[1:].upper().replace("JPG", "JPEG")
    )
    replace_file(out, buffer.getvalue())
    return f"{out}: {len(pixels)} images of {len(names)} {'prompts' if prompts else 'classes'}"


def _rows(
    config: dict[str, Any], classes: list[str], prompts: list[str]
) -> tuple[list[str], Callable[[np.ndarray], Condition]]:
    """Names of the rows asked for, and their conditions. Raises `InputError` where the checkpoint knows the other kind."""
    if config.get("condition", "class") == "class":
        if prompts:
            raise InputError("--prompt: this checkpoint knows classes, not captions: use --classes")
        known = config["class_names"]
        chosen = np.array(
            [class_index(name, known) for name in classes] or list(range(min(len(known), 16)))
        )
        return [known[c] for c in chosen], lambda rows: torch.from_numpy(chosen[rows])
    if classes or not prompts:
        raise InputError(
            "this checkpoint is conditioned on captions: ask with --prompt 'red heart' (may be repeated)"
        )
    tidied = [normalize_caption(prompt) for prompt in prompts]
    states = TextEncoder(TextConfig.model_validate(config["text"]), torch.device("cpu"))(tidied)
    return tidied, lambda rows: pack([states[row] for row in rows])


def class_index(name: str, names: list[str]) -> int:
    """A class by its name (any case) or its number. Raises `InputError`."""
    folded = [n.casefold() for n in names]
    if name.casefold() in folded:
        return folded.index(name.casefold())
    if name.isdigit() and int(name) < len(names):
        return int(name)
    raise InputError(
        f"--classes {name!r}: there are {len(names)}, by name or number: {', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
    )
