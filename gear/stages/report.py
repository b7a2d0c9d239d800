"""Stage report: write one HTML page with all results of a run."""

from __future__ import annotations

import hashlib

import numpy as np
import yaml
from PIL import Image

from gear import paths
from gear.core.files import read_json, read_json_lines, read_object, replace_file, write_json
from gear.data.row_selection import evenly_spaced
from gear.data.shards import load_manifest, read_split
from gear.evaluation.metric_protocol import require_records
from gear.generator.conditions import conditions_for
from gear.generator.inference import load_generator
from gear.params import Config
from gear.report import page
from gear.report.curves import curve_charts, generator_curve, plot_rows
from gear.report.provenance import machine_provenance, run_provenance
from gear.report.token_predictions import predict_tokens
from gear.report.tokenizer_pictures import mapped, reconstruct, sections
from gear.tokenizer.inference import load_tokenizer


def run(config: Config) -> None:
    """Write `reports/index.html` and `reports/curves.json` from all outputs of the run."""
    manifest = load_manifest(paths.SHARDS)
    protocols = paths.REPORTS / "protocols.json"
    measured = read_json(protocols)
    records = require_records(measured, str(protocols))
    nearest = read_json(paths.NEAREST_TRAINING)
    details = read_object(
        paths.REPORTS / "codebook-details.json", warm=dict, joint=dict, drift=dict
    )
    settings = config.model_dump(mode="json")
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer")
    train, val, samples = map(
        read_split, (paths.SHARDS / "train", paths.SHARDS / "val", paths.SAMPLES)
    )
    curves = {
        name: read_json_lines(folder / "curves.jsonl") for name, folder in paths.TRAININGS.items()
    }
    found = reconstruct(tokenizer, val, manifest["size"])
    generator = load_generator(paths.GENERATOR / "generator")
    shown = evenly_spaced(len(val), len(found.names))[mapped(found)]
    given = conditions_for(val, config.data.condition, paths.FEATURES)(shown)
    text = page.render(
        recipe=config.joint.recipe,
        manifest=manifest,
        cards=page.cards(records),
        absent=page.absent_metrics(measured),
        agreement=page.agreement_rows(records),
        captions_note=page.captions_note(records),
        guidance=page.guidance_charts(records),
        condition=config.data.condition,
        samples=page.data_uri(Image.open(paths.SAMPLE_GRID)),
        shown_guidance=config.sample.grid_guidance or config.sample.guidance,
        measured_guidance=config.sample.guidance,
        copies=page.copies_section(
            records,
            nearest,
            samples.images(np.array([row["sample"] for row in nearest])),
            train.images(np.array([row["training_row"] for row in nearest])),
        ),
        tokenizer=sections(
            tokenizer,
            found,
            manifest["classes"],
            train.labels,
            predict_tokens(generator, found.tokens[mapped(found)], given),
        ),
        charts=[
            {"name": name, "charts": curve_charts(rows)} for name, rows in curves.items() if rows
        ],
        codebook=page.codebook_section(details),
        drift=page.drift_rows(details["drift"]),
        validation=read_object(paths.VALIDATION_METRICS, expectations=int, rows=int, failed=int),
        provenance=run_provenance(
            settings,
            config.run.seed,
            (paths.SHARDS, paths.TOKENIZER, paths.JOINT, paths.GENERATOR),
        ),
        params=yaml.safe_dump(settings, sort_keys=False),
    )
    replace_file(paths.PAGE, text.encode())
    page_md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    write_json(paths.PROVENANCE, {**machine_provenance(), "page_md5": page_md5})
    of_generator = generator_curve(curves["joint"], curves["generator"])
    if config.generator.start == "scratch":
        of_generator = curves["generator"]
    write_json(paths.PLOTS, plot_rows(of_generator))
    print(f"report: {paths.PAGE}")
