"""`gear compare`: experiments, revisions or the workspace side by side, where they were measured alike."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from typing import Any

from gear import paths
from gear.core.errors import InputError
from gear.core.files import replace_file
from gear.report.comparison_page import STAGE, page, tables
from gear.runs import costs
from gear.runs.comparison import Rows, Run, check_protocols, group
from gear.runs.revision import Cache, Locked, Missing, Revision, checkout_root, find_revision

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
    """Tables of the runs as text; the same with curves is written to `reports/compare/`. The first run's arm is the baseline.

    Raises `InputError` on an unknown run, one without metrics or curves at hand, or runs measured under different protocols.
    """
    if len(names) < 2:
        raise InputError("name at least two of: experiments, git revisions, workspace")
    root = checkout_root()
    revisions, cache = [find_revision(name, root) for name in names], Cache(root)
    locks = [revision.lock() for revision in revisions]
    runs = [_read(revision, lock, cache) for revision, lock in zip(revisions, locks, strict=True)]
    try:
        check_protocols(runs)
        arms = group(runs)
    except ValueError as error:
        raise InputError(str(error)) from None
    stages = list(dict.fromkeys(stage for run in runs for stage in run.seconds))
    file = root / paths.COMPARISONS / f"{_file_name(names)}.html"
    replace_file(file, page(arms, stages).encode())
    return "\n\n".join(
        [
            *(table.text() for table in tables(arms, stages) if table.rows),
            f"page: {file.relative_to(root)}",
        ]
    )


def _file_name(names: list[str]) -> str:
    """Of the runs compared, short, and no other runs' name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(names)).lstrip(".-")
    return (
        plain
        if plain == "_".join(names) and len(plain) <= 80
        else f"{plain[:60]}-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"
    )


def _read(revision: Revision, lock: dict[str, Locked], cache: Cache) -> Run:
    records = revision.read_json(PROTOCOLS)
    if not isinstance(records, dict):
        raise InputError(
            f"{revision.name} has no {PROTOCOLS}: run `dvc repro`, and commit what it writes to reports/"
        )
    if STAGE not in lock:
        raise InputError(f"dvc.lock of {revision.name} has no stage {STAGE}: run `dvc repro`")
    settings = flat(revision.read_yaml(str(paths.PARAMS)))
    made = {path: md5 for stage in lock.values() for path, md5 in stage.outs.items()}
    code = {
        path: md5 for stage in lock.values() for path, md5 in stage.deps.items() if path not in made
    }
    return Run(
        name=revision.name,
        commit=revision.commit,
        settings=settings,
        code=hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest(),
        records=records,
        health=revision.read_json(str(paths.CODEBOOK_METRICS)) or {},
        conditions={"data": made.get(str(paths.SHARDS)), "joint.fd_n": settings.get("joint.fd_n")},
        curves={STAGE: _curve(revision, lock[STAGE], cache)},
        seconds={
            name: (costs.find(revision.root, name, stage.outs) or {}).get("seconds")
            for name, stage in lock.items()
        },
    )


def _curve(revision: Revision, stage: Locked, cache: Cache) -> Rows:
    """The rows that the joint stage logged: from disk in the workspace, else from DVC's cache."""
    file = paths.JOINT / "curves.jsonl"
    try:
        text = (revision.root / file).read_text() if not revision.commit else _cached(stage, cache)
        return [json.loads(line) for line in text.splitlines()]
    except (Missing, FileNotFoundError):
        pull = (
            f"`dvc exp pull origin {revision.name}` (an experiment) or `dvc fetch --all-commits`"
            if revision.commit
            else "`dvc pull`"
        )
        raise InputError(
            f"{file} of {revision.name} is not in this checkout's DVC cache: {pull} brings it"
        ) from None
    except ValueError as error:
        raise InputError(f"{file} of {revision.name}: {error}") from None


def _cached(stage: Locked, cache: Cache) -> str:
    return cache.read(stage.outs.get(str(paths.JOINT), ""), "curves.jsonl").decode()


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v
        for name, inner in tree.items()
        for k, v in flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
