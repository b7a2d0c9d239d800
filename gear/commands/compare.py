"""`gear compare`: runs side by side, if they were measured under the same protocol."""

from __future__ import annotations

import argparse
import hashlib
import json
import re

from gear import paths
from gear.core.errors import InputError
from gear.core.files import parse_json, replace_file
from gear.evaluation.metric_protocol import require_records
from gear.params import flatten
from gear.report.comparison_page import STAGE, page, tables
from gear.runs import costs
from gear.runs.comparison import Rows, Run, check_protocols, group
from gear.runs.revision import Revision, checkout_root, find_revision

PROTOCOLS = str(paths.REPORTS / "protocols.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear compare`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="run",
        help="an experiment, a git revision or `workspace`; the first is the baseline",
    )


def run(arguments: argparse.Namespace) -> str:
    """Return the tables as text."""
    return compare(arguments.runs)


def compare(names: list[str]) -> str:
    """Compare runs; the first one's arm is the baseline.

    Returns:
        Tables as text; the same with curves is written to `reports/compare/`.

    Raises:
        InputError: on an unknown run, one without metrics or curves at hand, or runs measured
            under different protocols.
    """
    if len(names) < 2:
        raise InputError("name at least two of: experiments, git revisions, workspace")
    root = checkout_root()
    revisions = [find_revision(name, root) for name in names]
    runs = [_read(revision) for revision in revisions]
    try:
        check_protocols(runs)
        arms = group(runs)
    except ValueError as error:
        raise InputError(str(error)) from None
    stages = list(dict.fromkeys(stage for run in runs for stage in run.seconds))
    file = root / paths.COMPARISONS / f"{_file_name(names)}.html"
    replace_file(file, page(arms, stages).encode())
    texts = [table.text() for table in tables(arms, stages) if table.rows]
    return "\n\n".join([*texts, f"page: {file.relative_to(root)}"])


def _file_name(names: list[str]) -> str:
    """Return a short name for a page that only these runs have."""
    joined = "_".join(names)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", joined).lstrip(".-")
    if plain == joined and len(plain) <= 80:
        return plain
    return f"{plain[:60]}-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"


def _read(revision: Revision) -> Run:
    lock = revision.lock()
    records = revision.read_json(PROTOCOLS)
    if not isinstance(records, dict):
        raise InputError(
            f"{revision.name} has no {PROTOCOLS}: run `dvc repro`, "
            "and commit what it writes to reports/"
        )
    require_records(records, f"{PROTOCOLS} of {revision.name}")
    if STAGE not in lock:
        raise InputError(f"dvc.lock of {revision.name} has no stage {STAGE}: run `dvc repro`")
    settings = flatten(revision.read_yaml(str(paths.PARAMS)))
    made = {path: md5 for stage in lock.values() for path, md5 in stage.outs.items()}
    images = settings.get("data.root")
    code = {
        path: md5
        for stage in lock.values()
        for path, md5 in stage.deps.items()
        if path not in made and path != images
    }
    costs_by_stage = {name: costs.find(revision.root, stage) for name, stage in lock.items()}
    return Run(
        name=revision.name,
        commit=revision.commit,
        settings=settings,
        code=hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest(),
        records=records,
        health=_health(revision),
        conditions={"data": made.get(str(paths.SHARDS)), "joint.fd_n": settings.get("joint.fd_n")},
        curves={STAGE: _curve(revision)},
        seconds={name: (cost or {}).get("seconds") for name, cost in costs_by_stage.items()},
    )


def _health(revision: Revision) -> dict[str, float]:
    """Return what the codebook stage measured, without what is no number."""
    found = revision.read_json(str(paths.CODEBOOK_METRICS))
    values = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in values if isinstance(value, int | float)}


def _curve(revision: Revision) -> Rows:
    """Return the rows that the joint stage logged."""
    file = paths.JOINT / "curves.jsonl"
    content = revision.read(str(file))
    if content is None:
        pull = "`dvc pull`"
        if revision.commit:
            experiment = f"`dvc exp pull origin {revision.name}` (an experiment)"
            pull = f"{experiment} or `dvc fetch --all-commits`"
        raise InputError(
            f"{file} of {revision.name} is not in this checkout's DVC cache: {pull} brings it"
        )
    source = f"{file} of {revision.name}"
    rows = [parse_json(line, source) for line in content.splitlines()]
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise InputError(f"{source}: not the rows of a curve: `dvc repro joint` writes it anew")
    return rows
