"""Stage sample: seeded, class-balanced images from the generator, as shards and a grid."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from gear import paths
from gear.core.device import pick_device
from gear.core.files import replace_file, replace_folder, write_json
from gear.data.captions import normalize_caption
from gear.data.rows import batches, evenly_spaced
from gear.data.shards import encode_png, load_manifest, read_split, write_shards
from gear.encoders.text import TextEncoder
from gear.generator.conditioning import pack
from gear.generator.conditions import drawn, sampling_set
from gear.generator.inference import load_generator
from gear.generator.sampling import SEED_STRIDE, draw
from gear.generator.transformer import Generator
from gear.params import Config
from gear.report.figures import class_grid, grid_rows
from gear.tokenizer.inference import decode_tokens, load_tokenizer

PROMPT_IMAGES, HELD_OUT = 8, 8  # samples of a prompt; validation captions among the prompts


def run(config: Config) -> None:
    """`data/models/generator` → `data/samples` and `reports/samples.png`.

    Where the condition is the caption: samples of the validation captions in turn, and of `sample.prompts` in `prompts/`.
    """
    device = pick_device(config.host)
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer").to(device)
    generator = load_generator(paths.GENERATOR / "generator").to(device)
    chosen, wanted = config.sample, sampling_set(config, config.sample.n)
    tokens = draw(
        generator,
        wanted.given,
        config.run.seed * SEED_STRIDE + np.arange(chosen.n),
        chosen,
        config.host.sample_batch,
    )
    by_caption = wanted.rows is not None
    prompts = Prompts(config, generator) if by_caption else None
    prompted = decode_tokens(tokenizer, prompts.tokens) if prompts else np.empty(0)

    def decoded() -> Iterator[np.ndarray]:
        for part in batches(len(tokens)):  # never all of them in memory
            yield from decode_tokens(tokenizer, tokens[part])

    def fill(draft: Path) -> None:
        write_shards(
            (
                _row(i, image, int(wanted.labels[i]), wanted.captions[i])
                for i, image in enumerate(decoded())
            ),
            draft,
        )
        np.save(draft / "tokens.npy", tokens.astype(np.int32))
        np.save(draft / "labels.npy", wanted.labels)
        if prompts:
            each = np.repeat(np.arange(len(prompts.kinds)), PROMPT_IMAGES)
            captions = list(prompts.kinds)
            write_shards(
                (_row(i, prompted[i], 0, captions[each[i]]) for i in range(len(prompted))),
                draft / "prompts",
            )
            write_json(
                draft / "prompts.json",
                [{"caption": c, "kind": k} for c, k in prompts.kinds.items()],
            )
        write_json(draft / "protocol.json", drawn(config, chosen.n))

    replace_folder(paths.SAMPLES, fill)
    buffer = io.BytesIO()
    if prompts:
        sheet = class_grid(
            prompted,
            np.repeat(np.arange(len(prompts.kinds)), PROMPT_IMAGES),
            prompts.names,
            columns=PROMPT_IMAGES,
        )
    else:
        shown, rows, names = grid_rows(
            wanted.labels, load_manifest(paths.SHARDS)["classes"], columns=12
        )
        sheet = class_grid(decode_tokens(tokenizer, tokens[shown]), rows, names, columns=12)
    sheet.save(buffer, format="PNG")
    replace_file(paths.SAMPLE_GRID, buffer.getvalue())


class Prompts:
    """Tokens drawn for `sample.prompts` and some validation captions, and what each is: in neither split, held out, or seen."""

    def __init__(self, config: Config, generator: Generator) -> None:
        train, val = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val")
        shown = [
            *config.sample.prompts,
            *(val.captions[row] for row in evenly_spaced(len(val), HELD_OUT)),
        ]
        seen, held = set(train.captions), set(val.captions)
        captions = dict.fromkeys(normalize_caption(caption) for caption in shown)
        self.kinds = {
            c: "seen in training" if c in seen else "held out" if c in held else "new"
            for c in captions
        }
        states = TextEncoder(config.text, torch.device("cpu"))(list(self.kinds))
        each = np.repeat(np.arange(len(states)), PROMPT_IMAGES)
        seeds = config.run.seed * SEED_STRIDE + np.tile(np.arange(PROMPT_IMAGES), len(states))
        self.tokens = draw(
            generator,
            lambda rows: pack([states[i] for i in each[rows]]),
            seeds,
            config.sample,
            config.host.sample_batch,
        )

    @property
    def names(self) -> list[str]:
        """Captions with their kinds, for people."""
        return [f"{caption} ({kind})" for caption, kind in self.kinds.items()]


def _row(number: int, pixels: np.ndarray, label: int, caption: str) -> dict:
    image = encode_png(pixels)
    return {
        "key": f"sample-{number:06d}",
        "image": image,
        "label": label,
        "caption": caption,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "sha256": hashlib.sha256(image).hexdigest(),
    }
