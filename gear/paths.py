"""Where every artefact of a run lies, relative to the checkout. The one owner of these names."""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
PRESETS = Path("presets")

SHARDS = Path("data/shards")  # train/*.parquet, val/*.parquet, manifest.json, rejects.json
FEATURES = Path("data/features")  # teacher features and reference statistics
MODELS = Path("data/models")
TOKENIZER = MODELS / "tokenizer"  # the warm tokenizer
JOINT = MODELS / "joint"  # tokenizer/ and generator/ (both EMA), curves.jsonl
GENERATOR = MODELS / "generator"  # tokenizer/ and generator/, what sampling uses
SAMPLES = Path("data/samples")

REPORTS = Path("reports")
VALIDATION_METRICS = REPORTS / "validation.json"
METRICS = REPORTS / "metrics.json"
CODEBOOK_METRICS = REPORTS / "codebook.json"
SAMPLE_GRID = REPORTS / "samples.png"
PAGE = REPORTS / "index.html"
PLOTS = REPORTS / "curves.json"  # the joint stage's curve where FD was measured, for `dvc plots`
DATA_DOCS = REPORTS / "data-docs"  # volatile: Great Expectations pages, not hashed
DRIFT_PAGES = REPORTS / "drift"  # volatile: Evidently pages, not hashed

COMPARISONS = REPORTS / "compare"  # volatile: pages of `gear compare`, not hashed

WORK = Path(".gear")  # resumable training state and run logs; outside DVC and git
COSTS = WORK / "costs"  # what each output cost on this machine: seconds and hardware, by the output's hash
