"""Stage sample: sample images, seeded and balanced over classes or for captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gear import paths
from gear.core.device import pick_device
from gear.core.files import replace_file, replace_folder, write_json
from gear.core.ranks import join_ranks
from gear.data.shards import load_manifest, read_split, write_samples
from gear.encoders.text import TextEncoder
from gear.generator.conditions import sampling_protocol, sampling_set
from gear.generator.inference import load_generator
from gear.generator.prompts import IMAGES, Prompt, choose_prompts, draw_prompts, prompt_rows
from gear.generator.sampling import draw, sample_seeds
from gear.params import Config
from gear.report.figures import class_grid, grid_rows, png_bytes
from gear.tokenizer.inference import decode_tokens, decoded_images, load_tokenizer

GRID_COLUMNS = 12


def run(config: Config) -> None:
    """Write `data/samples` and `reports/samples.png` from `data/models/generator`.

    If captions are the condition, samples are of the validation captions in turn; samples of
    `sample.prompts` and of some validation captions are in `prompts/`. The picture and `prompts/`
    use `sample.grid_guidance`, which changes no other output.
    """
    ranks, device = join_ranks(config.host), pick_device(config.host)
    condition = config.data.condition
    settings = config.sample
    shown_settings = settings.model_copy(
        update={"guidance": settings.grid_guidance or settings.guidance}
    )
    seed = config.run.seed
    batch = config.host.sample_batch
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer").to(device)
    generator = load_generator(paths.GENERATOR / "generator").to(device)
    wanted = sampling_set(settings.n, condition, paths.SHARDS, paths.FEATURES)
    seeds = sample_seeds(seed, settings.n)
    tokens = draw(generator, wanted.conditions, seeds, settings, batch, ranks)
    images = decoded_images(tokenizer, tokens, ranks)
    classes = load_manifest(paths.SHARDS)["classes"]
    shown, grid_labels, names = grid_rows(wanted.labels, classes, columns=GRID_COLUMNS)
    grid_tokens = tokens[shown]
    if condition == "class" and shown_settings.guidance != settings.guidance:
        grid_tokens = draw(
            generator,
            lambda rows: wanted.conditions(shown[rows]),
            seeds[shown],
            shown_settings,
            batch,
            ranks,
        )
    if not ranks.is_rank_zero:
        for _ in images:  # decode this rank's share
            pass
        return
    prompts: list[Prompt] = []
    if condition == "caption":
        prompts = choose_prompts(
            settings.prompts,
            read_split(paths.SHARDS / "train").captions,
            read_split(paths.SHARDS / "val").captions,
        )
        encode = TextEncoder(config.text, torch.device("cpu"))
        states = encode([prompt.caption for prompt in prompts])
        prompt_tokens = draw_prompts(generator, states, seed, shown_settings, batch)
        prompt_images = decode_tokens(tokenizer, prompt_tokens)
        rows = prompt_rows(len(prompts))

    def fill(draft: Path) -> None:
        write_samples(images, wanted.labels, wanted.captions, draft)
        np.save(draft / "tokens.npy", tokens.astype(np.int32))
        np.save(draft / "labels.npy", wanted.labels)
        protocol = sampling_protocol(wanted, settings, seed)
        write_json(draft / "protocol.json", protocol)
        if prompts:
            captions = [prompts[row].caption for row in rows]
            write_samples(prompt_images, np.zeros_like(rows), captions, draft / "prompts")
            facts = [{"caption": prompt.caption, "kind": prompt.kind} for prompt in prompts]
            write_json(draft / "prompts.json", facts)

    replace_folder(paths.SAMPLES, fill)
    if prompts:
        titles = [prompt.title for prompt in prompts]
        grid = class_grid(prompt_images, rows, titles, columns=IMAGES)
    else:
        pixels = decode_tokens(tokenizer, grid_tokens)
        grid = class_grid(pixels, grid_labels, names, columns=GRID_COLUMNS)
    replace_file(paths.SAMPLE_GRID, png_bytes(grid))
