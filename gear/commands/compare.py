"""`gear compare`: compare runs that were measured under the same protocol."""

from __future__ import annotations

import argparse
import hashlib
import json
import re

from gear import paths
from gear.core.errors import InputError
from gear.core.files import parse_json, replace_file
from gear.core.text import one_line
from gear.evaluation.metric_protocol import require_records
from gear.params import NEUTRAL, flatten
from gear.report.comparison_page import STAGE, page, sampling_warning, tables
from gear.report.comparison_pictures import RECONSTRUCTIONS, SAMPLES, RunPictures
from gear.runs import costs
from gear.runs.comparison import Rows, Run, check_protocols, group
from gear.runs.recorded_pictures import Reconstructions, Sample, first_samples, reconstructions
from gear.runs.revision import (
    MissingContentError,
    Revision,
    checkout_root,
    find_revision,
    installed_code,
)

PROTOCOLS = str(paths.REPORTS / "protocols.json")
NOTED = 8  # maximum settings that a note names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear compare`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="run",
        help="an experiment, a git revision or `workspace`; the first is the baseline",
    )
    parser.add_argument(
        "--across",
        choices=["sample"],
        help="compare runs whose sampling differs as well (guidance and its interval, temperature, "
        "top-k, top-p); all else of their protocols has to be the same",
    )


def run(arguments: argparse.Namespace) -> str:
    """Return the tables as text."""
    return compare(arguments.runs, across_sampling=arguments.across == "sample")


def compare(names: list[str], *, across_sampling: bool = False) -> str:
    """Compare runs; the first one's arm is the baseline.

    across_sampling: Compare runs whose sampling settings differ, too.

    Returns:
        Tables as text; the same with pictures and curves is written to `reports/compare/`.

    Raises:
        InputError: on an unknown run, missing metrics or curves, or runs that were measured under
            different protocols.
    """
    if len(names) < 2:
        raise InputError("name at least two of: experiments, git revisions, workspace")
    root = checkout_root()
    revisions = [find_revision(name, root) for name in names]
    runs = [_read(revision) for revision in revisions]
    try:
        check_protocols(runs, across_sampling=across_sampling)
        arms = group(runs)
    except ValueError as error:
        raise InputError(str(error)) from None
    stages = list(dict.fromkeys(stage for run in runs for stage in run.seconds))
    pictures = {
        revision.name: _pictures(revision, run)
        for revision, run in zip(revisions, runs, strict=True)
    }
    notes = [note for revision in revisions for note in _notes(revision)]
    file = root / paths.COMPARISONS / f"{_file_name(names)}.html"
    shown = tables(arms, stages)
    replace_file(file, page(arms, shown, pictures, notes).encode())
    warnings = [line for line in (sampling_warning(arms), *notes) if line]
    texts = [table.text() for table in shown if table.rows]
    return "\n\n".join([*warnings, *texts, f"page: {file.relative_to(root)}"])


def _file_name(names: list[str]) -> str:
    """Return a short file name that is unique to these runs."""
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
    records = require_records(records, f"{PROTOCOLS} of {revision.name}")
    if STAGE not in lock:
        raise InputError(f"dvc.lock of {revision.name} has no stage {STAGE}: run `dvc repro`")
    values = revision.read_yaml(str(paths.PARAMS))
    settings = flatten({name: part for name, part in values.items() if name not in NEUTRAL})
    made = {path: md5 for stage in lock.values() for path, md5 in stage.outs.items()}
    images = settings.get("data.root")
    code = {
        path: md5
        for stage in lock.values()
        for path, md5 in stage.deps.items()
        if path not in made and path != images
    } | installed_code(lock)
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
    """Return the numeric values that the codebook stage measured."""
    found = revision.read_json(str(paths.CODEBOOK_METRICS))
    values = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in values if isinstance(value, int | float)}


def _curve(revision: Revision) -> Rows:
    """Return the rows that the joint stage logged."""
    file = paths.JOINT / "curves.jsonl"
    content = revision.read(str(file))
    if content is None:
        raise InputError(
            f"{file} of {revision.name} is not in this checkout's DVC cache: "
            f"{_remedy(revision, str(file))} brings it"
        )
    source = f"{file} of {revision.name}"
    rows = [parse_json(line, source) for line in content.splitlines()]
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise InputError(f"{source}: not the rows of a curve: `dvc repro joint` writes it anew")
    return rows


def _remedy(revision: Revision, output: str) -> str:
    """Return the command that brings an output into DVC's cache."""
    if not revision.commit:
        return f"`dvc pull {output}`"
    if revision.experiment:
        return f"`dvc exp pull origin {revision.name}`"
    return f"`dvc fetch --all-commits {output}`"


def _pictures(revision: Revision, run: Run) -> RunPictures:
    """Return the available samples and reconstructions of a run."""
    samples: list[Sample] = []
    rebuilt: Reconstructions | None = None
    missing = []
    size = run.settings.get("data.size")
    try:
        samples = first_samples(revision, SAMPLES)
    except MissingContentError as error:
        missing.append(f"{error}: {_remedy(revision, str(paths.SAMPLES))} brings it")
    except InputError as error:
        missing.append(str(error))
    try:
        if isinstance(size, int) and size > 0:
            rebuilt = reconstructions(revision, size, RECONSTRUCTIONS)
    except MissingContentError as error:
        missing.append(f"{error}: {_remedy(revision, str(paths.PAGE))} brings it")
    except InputError as error:
        missing.append(str(error))
    return RunPictures(samples, rebuilt, missing)


def _notes(revision: Revision) -> list[str]:
    """Return notes on settings of the workspace that differ from its last commit or run."""
    if revision.commit:
        return []
    here = flatten(revision.read_yaml(str(paths.PARAMS)))
    head = find_revision("HEAD", revision.root)
    committed = flatten(head.read_yaml(str(paths.PARAMS)))
    notes = []
    if changes := [
        f"{key} {committed.get(key, '-')} → {here.get(key, '-')}"
        for key in sorted(here.keys() | committed.keys())
        if here.get(key) != committed.get(key)
    ]:
        notes.append(f"{revision.name}: not the committed settings: {_few(changes)}")
    changed = {
        key: f"{key} {value} in {stage.name}, now {here[key]}"
        for stage in revision.lock().values()
        for key, value in flatten(stage.params.get(str(paths.PARAMS), {})).items()
        if key in here and here[key] != value
    }
    if changed:
        ran = _few(list(changed.values()))
        notes.append(f"{revision.name}: made with other settings, `dvc repro`: {ran}")
    return [one_line(note) for note in notes]


def _few(texts: list[str]) -> str:
    """Return the first of some texts, and how many more there are."""
    more = len(texts) - NOTED
    return "; ".join(texts[:NOTED]) + (f"; and {more} more" if more > 0 else "")
