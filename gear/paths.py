"""Where every artefact of a run lies, relative to the checkout. The one owner of these names."""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("gear.lock")  # of a project: which installed code and libraries its results are of
PACKAGE = Path(__file__).parent
# presets/ and dvc.yaml lie beside the package in a checkout, and in it where a wheel is installed
_HOME = PACKAGE.parent if (PACKAGE.parent / "presets").is_dir() else PACKAGE
PRESETS = _HOME / "presets"
GRAPH = _HOME / "dvc.yaml"  # of the package; that of a project is made from it
SCHEMA = Path("presets/params.schema.json")

SHARDS = Path("data/shards")  # train/*.parquet, val/*.parquet, manifest.json, rejects.json
FEATURES = Path("data/features")  # teacher features, and text states of captions
# Statistics of the training images, with which samples are compared: over EfficientNet-Lite0, which
# trainings read too, and over Inception-v3.
REFERENCE = Path("data/reference")
INCEPTION = Path("data/inception")
MODELS = Path("data/models")
TOKENIZER = MODELS / "tokenizer"  # the warm tokenizer
JOINT = MODELS / "joint"  # tokenizer/ and generator/ (both EMA), curves.jsonl
GENERATOR = MODELS / "generator"  # tokenizer/ and generator/, what sampling uses
# what each training writes
TRAININGS = {"tokenizer": TOKENIZER, "joint": JOINT, "generator": GENERATOR}
SAMPLES = Path("data/samples")

INCOMING = Path(
    "data/incoming"
)  # a data version under examination: beside the pipeline, never in data/shards
QUARANTINE = Path("data/quarantine")  # versions refused, each with its verdict.json
VERSIONS = Path("data/versions")  # a small table of the last accepted version

REPORTS = Path("reports")
VALIDATION_METRICS = REPORTS / "validation.json"
RECONSTRUCTION = REPORTS / "reconstruction.json"  # measured without sampling; evaluate adds it
METRICS = REPORTS / "metrics.json"
NEAREST_TRAINING = REPORTS / "nearest-training.json"  # the samples nearest to a training image
CODEBOOK_METRICS = REPORTS / "codebook.json"
DATASET_VERDICT = REPORTS / "dataset.json"  # of the last check of a data version
SAMPLE_GRID = REPORTS / "samples.png"
PAGE = REPORTS / "index.html"
PROVENANCE = REPORTS / "provenance.json"  # commit, hardware, versions: in git, not hashed
PLOTS = REPORTS / "curves.json"  # the generator's curve where FD was measured, for `dvc plots`
DATA_DOCS = REPORTS / "data-docs"  # volatile: Great Expectations pages, not hashed
DRIFT_PAGES = REPORTS / "drift"  # volatile: Evidently pages, not hashed

STUDIES = Path("docs/studies")  # of `gear study`: a folder each, records and page, in git
COMPARISONS = REPORTS / "compare"  # volatile: pages of `gear compare`, not hashed

LIVE = REPORTS / "live"  # volatile: DVCLive's files of trainings, for `dvc plots`, not hashed

WORK = Path(".gear")  # resumable training state and run logs; outside DVC and git
LOGS = WORK / "logs"  # of trainings, and tracebacks of unforeseen errors
# Where resumable states lie. For `dvc exp run --temp`, whose own folder is new every time, a flow
# names that of its checkout.
STATES = Path(os.environ.get("GEAR_STATES", str(WORK)))
COSTS = (
    WORK / "costs"
)  # what each stage cost on this machine: seconds, memory, hardware, by its inputs' hash


def home() -> Path:
    """Return the checkout that keeps what an experiment leaves: the one that started it."""
    root = os.environ.get("DVC_ROOT")
    return Path(root) if root and "DVC_STAGE" in os.environ else Path()
