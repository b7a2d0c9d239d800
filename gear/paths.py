"""Paths of all files and folders of a run, relative to the checkout. Defined only here."""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("gear.lock")  # of a project: code and library versions that made its results
PACKAGE = Path(__file__).parent
# presets/ and dvc.yaml are next to the package in a checkout, and inside it in a wheel
_HOME = PACKAGE.parent if (PACKAGE.parent / "presets").is_dir() else PACKAGE
PRESETS = _HOME / "presets"
GRAPH = _HOME / "dvc.yaml"  # of the package; a project's is generated from it
SCHEMA = Path("presets/params.schema.json")

SHARDS = Path("data/shards")  # train/*.parquet, val/*.parquet, manifest.json, rejects.json
FEATURES = Path("data/features")  # teacher features, and text states of captions
# Statistics of the training images that samples are compared with: of EfficientNet-Lite0 features,
# which trainings read too, and of Inception-v3 features.
REFERENCE = Path("data/reference")
INCEPTION = Path("data/inception")
MODELS = Path("data/models")
TOKENIZER = MODELS / "tokenizer"  # the tokenizer after its warm-up
JOINT = MODELS / "joint"  # tokenizer/ and generator/ (both EMA), curves.jsonl
GENERATOR = MODELS / "generator"  # tokenizer/ and generator/, what sampling uses
# what each training writes
STARTED_FROM = "started-from.json"  # in a training's folder: the state that `--from` named
TRAININGS = {"tokenizer": TOKENIZER, "joint": JOINT, "generator": GENERATOR}
SAMPLES = Path("data/samples")

# a data version that is being checked; outside the pipeline, never in data/shards
INCOMING = Path("data/incoming")
QUARANTINE = Path("data/quarantine")  # rejected versions, each with its verdict.json
VERSIONS = Path("data/versions")  # a small table of the last accepted version

REPORTS = Path("reports")
VALIDATION_METRICS = REPORTS / "validation.json"
RECONSTRUCTION = REPORTS / "reconstruction.json"  # metrics without samples; `evaluate` adds them
METRICS = REPORTS / "metrics.json"
NEAREST_TRAINING = REPORTS / "nearest-training.json"  # the samples nearest to a training image
CODEBOOK_METRICS = REPORTS / "codebook.json"
DATASET_VERDICT = REPORTS / "dataset.json"  # of the last check of a data version
SAMPLE_GRID = REPORTS / "samples.png"
PAGE = REPORTS / "index.html"
PROVENANCE = REPORTS / "provenance.json"  # commit, hardware, versions: in git, not hashed
PLOTS = REPORTS / "curves.json"  # the generator's curve at steps with FD, for `dvc plots`
DATA_DOCS = REPORTS / "data-docs"  # volatile: Great Expectations pages, not hashed
DRIFT_PAGES = REPORTS / "drift"  # volatile: Evidently pages, not hashed

STUDIES = Path("docs/studies")  # of `gear study`: a folder each, records and page, in git
COMPARISONS = REPORTS / "compare"  # volatile: pages of `gear compare`, not hashed

LIVE = REPORTS / "live"  # volatile: DVCLive's files of trainings, for `dvc plots`, not hashed

WORK = Path(".gear")  # resumable training state and run logs; outside DVC and git
TOKENS = WORK / "tokens"  # cached tokens of frozen tokenizers
LOGS = WORK / "logs"  # of trainings, and tracebacks of unforeseen errors
# Resumable states. `dvc exp run --temp` uses a new folder each time, so flows set GEAR_STATES to
# the folder of their own checkout.
STATES = Path(os.environ.get("GEAR_STATES", str(WORK)))
# seconds, memory and hardware of each stage on this machine, by the hash of its inputs
COSTS = WORK / "costs"


def home() -> Path:
    """Return the checkout that started an experiment and keeps its records; else `Path()`."""
    root = os.environ.get("DVC_ROOT")
    return Path(root) if root and "DVC_STAGE" in os.environ else Path()
