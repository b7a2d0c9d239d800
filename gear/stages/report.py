"""Stage report: everything a reader wants of a run on one page."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import yaml
from PIL import Image

from gear import paths
from gear.core.files import replace_file, write_json
from gear.core.hardware import hardware
from gear.data.shards import Split, load_manifest, read_split
from gear.params import Config
from gear.report import page, provenance
from gear.report.figures import class_grid, grid_rows, pair_grid
from gear.tokenizer.inference import decode_tokens, encode_images, load_tokenizer

PAIRS = 36


def run(config: Config) -> None:
    """All outputs of the run → `reports/index.html` and `reports/curves.json`."""
    manifest = load_manifest(paths.SHARDS)
    val, samples = read_split(paths.SHARDS / "val"), read_split(paths.SAMPLES)
    chosen = np.linspace(0, len(val) - 1, min(PAIRS, len(val))).round().astype(np.int64)
    originals = val.images(chosen)
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer")
    records = _json(paths.REPORTS / "protocols.json")
    details = _json(paths.REPORTS / "codebook-details.json")
    text = page.render(
        recipe=config.joint.recipe,
        manifest=manifest,
        cards=page.cards(records),
        agreement=page.agreement_rows(records),
        guidance=page.guidance_charts(records),
        condition=config.data.condition,
        samples=page.data_uri(_sample_grid(config, samples, manifest["classes"])),
        pairs=page.data_uri(
            pair_grid(
                originals, decode_tokens(tokenizer, encode_images(tokenizer, originals)), columns=12
            )
        ),
        charts=_charts(),
        codebook=page.codebook_section(details),
        drift=sorted(details["drift"].items()),
        validation=_json(paths.VALIDATION_METRICS),
        provenance=_provenance(config),
        params=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
    )
    replace_file(paths.PAGE, text.encode())
    write_json(paths.PLOTS, plot_rows(_rows(paths.JOINT)))
    print(f"report: {paths.PAGE}")


def _sample_grid(config: Config, samples: Split, classes: list[str]) -> Image.Image:
    """Samples, a row a class or, where the condition is the caption, a row a prompt."""
    if config.data.condition == "class":
        shown, rows, names = grid_rows(samples.labels, classes, columns=14)
        return class_grid(samples.images(shown), rows, names, columns=14)
    prompts, drawn = _json(paths.SAMPLES / "prompts.json"), read_split(paths.SAMPLES / "prompts")
    rows = np.repeat(np.arange(len(prompts)), len(drawn) // len(prompts))
    names = [f"{one['caption']} ({one['kind']})" for one in prompts]
    return class_grid(drawn[:], rows, names, columns=len(drawn) // len(prompts))


def _json(path: Any) -> Any:
    return json.loads(path.read_text())


def _rows(folder: Any) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]


def _charts() -> list[dict[str, Any]]:
    stages = {"tokenizer": paths.TOKENIZER, "joint": paths.JOINT, "generator": paths.GENERATOR}
    return [
        {"name": name, "charts": page.curve_charts(rows)}
        for name, folder in stages.items()
        if (rows := _rows(folder))
    ]


def plot_rows(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Rows of a logged curve as `dvc plots` takes them, all with the same names: those with FD and losses, else all."""
    chosen = [row for row in rows if "fd" in row and "loss/ntp" in row] or [
        row for row in rows if "loss/ntp" in row
    ]
    common = set.intersection(*(set(row) for row in chosen)) if chosen else set()
    return [{name: row[name] for name in sorted(common)} for row in chosen]


def _provenance(config: Config) -> list[tuple[str, str]]:
    hashes = {
        f"sha256 of {folder}": provenance.folder_hash(folder)
        for folder in (paths.SHARDS, paths.TOKENIZER, paths.JOINT, paths.GENERATOR)
    }
    settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    hashes = {"sha256 of all settings": hashlib.sha256(settings.encode()).hexdigest(), **hashes}
    facts = {
        "git commit of code and settings": provenance.commit(),
        "hardware": hardware(),
        "seed": str(config.run.seed),
        **hashes,
    }
    return [*facts.items(), *provenance.versions().items()]
