"""Make checkouts for studies, whose stages write made-up results at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.repo import REPO
from tests.support.runs import commit, gear
from tests.support.toys import empty_checkout

PIPELINE = """
stages:
  tokenizer:
    cmd: python make.py tokenizer
    deps: [make.py]
    params: [run, tokenizer]
    outs: [data/models/tokenizer]
  joint:
    cmd: python make.py joint
    deps: [make.py, data/models/tokenizer]
    params: [run, joint]
    outs: [data/models/joint]
  sample:
    cmd: python make.py sample
    deps: [make.py, data/models/joint]
    params: [sample]
    outs: [data/samples]
  evaluate:
    cmd: python make.py evaluate
    deps: [make.py, data/models/joint, data/samples]
    params: [evaluate]
    outs:
      - reports/protocols.json: {cache: false}
      - reports/provenance.json: {cache: false}
"""
CODE = """
import json, os, pathlib, sys, time
import yaml

from gear.process import exit_with_dvc

params = yaml.safe_load(open("params.yaml"))
stage, seed, recipe = sys.argv[1], params["run"]["seed"], params["joint"]["recipe"]
root = pathlib.Path(os.environ["GEAR_STATES"]).parents[2]
ran = root / "ran"
with ran.open("a") as log:
    threads = [os.environ["OMP_NUM_THREADS"], params["host"]["threads"]]
    log.write(f"{stage} {recipe} {seed} {threads[0]} {threads[1]}\\n")

exit_with_dvc()

def tokenizer(out):
    rows = [{"step": s, "loss/l1": 1 / s, "loss/perceptual": 1 / s} for s in range(1, 13)]
    (out / "curves.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))

def joint(out):
    if (ran.parent / "slow").exists():
        time.sleep(60)
    if recipe == "ste" and (ran.parent / "broken").exists():
        sys.exit("gear joint: the codebook collapsed")
    if seed == 0 and (ran.parent / "late").exists():
        time.sleep(6)
    speed = {"gear": 4.0, "llamagen_repa": 2.0, "ste": 1.0}[recipe] + 0.1 * seed
    rows = [{"step": s, "fd": 100 - speed * s, "loss/ntp": 1.0} for s in range(0, 13, 2)]
    (out / "curves.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))

def sample(out):
    import numpy as np
    from gear.data.shards import write_samples
    pixels, labels = np.zeros((30, 4, 4, 3), np.uint8), np.zeros(30, int)
    write_samples(pixels, labels, [""] * 30, out)

def evaluate(out):
    rows = pathlib.Path("data/models/joint/curves.jsonl").read_text().splitlines()
    record = {"value": json.loads(rows[-1])["fd"], "protocol": {"seeds": seed, "floor": 1.5}}
    (out / "protocols.json").write_text(json.dumps({"fd": record}))
    threads = int(os.environ["OMP_NUM_THREADS"])
    (out / "provenance.json").write_text(json.dumps({"threads": threads}))

where = {"sample": "data/samples", "evaluate": "reports"}.get(stage, f"data/models/{stage}")
folder = pathlib.Path(where)
folder.mkdir(parents=True, exist_ok=True)
globals()[stage](folder)
"""
STUDY = """
title: <b>Toy</b>
question: Which is sooner?
stopping: Two seeds.
preset: tiny
settings: {joint.fd_every: 2}
seeds: [0, 1]
arms:
  slow: {joint.recipe: llamagen_repa}
  fast: {joint.recipe: gear}
hypotheses:
  H1:
    claim: fast is sooner.
    predictions: [{kind: sooner, arm: fast, than: [slow]}]
"""


def study_checkout(folder: Path, study: str = STUDY) -> Path:
    """Make a committed checkout with the toy pipeline, the tiny preset and `studies/toy.yaml`.

    Its host.threads is 7.
    """
    shutil.copytree(empty_checkout(), folder)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "make.py").write_text(CODE)
    (folder / ".gitignore").write_text("/.gear\n/ran\n/slow\n/broken\n")
    shutil.copytree(REPO / "presets", folder / "presets")
    (folder / "studies").mkdir()
    (folder / "studies/toy.yaml").write_text(study)
    assert gear(folder, "preset", "tiny").returncode == 0
    params = (folder / "params.yaml").read_text()
    assert params.count("  threads: 0") == 1
    (folder / "params.yaml").write_text(params.replace("  threads: 0", "  threads: 7"))
    commit(folder, "start")
    return folder


def ran(folder: Path) -> list[str]:
    """Return what ran, each as "stage recipe seed OMP_NUM_THREADS host.threads"."""
    return (folder / "ran").read_text().splitlines() if (folder / "ran").exists() else []
