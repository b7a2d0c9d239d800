"""Refuse runs of a study that could be compared with no record of their seed."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from gear import paths
from gear.core.errors import InputError
from gear.git_project import untracked_files
from gear.runs.revision import Locked, content_md5
from gear.runs.study_file import PlannedRun, Study
from gear.runs.study_records import CODE, Record, code_hash, other_machine, record_file
from gear.runs.study_runner import finished, thread_share, threads_of


def refuse_unlike(
    study: Study,
    runs: Sequence[PlannedRun],
    records: Collection[Record],
    root: Path,
    jobs: int,
) -> None:
    """Raise an error if a run would be left out of every comparison with the records of its seed.

    Args:
        study: The study.
        runs: Runs to start.
        records: Records of finished runs.
        root: The checkout.
        jobs: Runs at a time.

    Raises:
        InputError: if the threads, hardware, packages or code of a run would be others than those
            of all records of its seed. One line says what to do.
    """
    seeds = {record.seed for record in records}
    if not any(run.seed in seeds for run in runs):
        return
    from gear.report.provenance import machine_provenance

    machine, code = machine_provenance(), _code_of_checkout(root)
    for run in runs:
        here = machine | {"threads": threads_of(run, jobs)}
        same_seed = [record for record in records if record.seed == run.seed]
        names = [_difference(record, here, code) for record in same_seed]
        if names and all(names) and not finished(run, root):
            raise InputError(
                f"seed {run.seed} has {_what(names[0], same_seed[0], here)}, so that {run.name} "
                f"would be compared with none of them: {_remedy(study, names[0], same_seed)}"
            )


def _difference(record: Record, here: dict[str, Any], code: str) -> str:
    """Return in what a run made here would differ from a record; "" if they can be compared."""
    known = {name: here.get(name) for name in record.provenance}
    return other_machine(record.provenance, known) or (
        "code" if code and record.code != code else ""
    )


def _what(name: str, record: Record, here: dict[str, Any]) -> str:
    if name == "threads":
        count = record.provenance[name]
        return (
            f"records of {count} thread{'s' * (count != 1)}, and this would use {here['threads']}"
        )
    return f"records of other {name} than there is here"


def _remedy(study: Study, name: str, same_seed: Sequence[Record]) -> str:
    if name == "threads":
        wanted = same_seed[0].provenance[name]
        jobs = len(os.sched_getaffinity(0)) // wanted if wanted else 0
        if jobs and thread_share(jobs) == wanted:
            return f"give --jobs {jobs}"
    recorded = {(record.arm, record.seed) for record in same_seed}
    runs = [run for run in study.runs if (run.arm, run.seed) in recorded]
    files = " ".join(str(record_file(study, run)) for run in runs)
    experiments = " ".join(run.experiment for run in runs)
    return (
        f"to run this seed again, `rm {files}`, and `dvc exp remove {experiments}` where this "
        "checkout has them"
    )


def _code_of_checkout(root: Path) -> str:
    """Return what `code_hash` will be of a run made now; "" if that is not known.

    Experiments have no untracked files, which the folders here may have.
    """
    if untracked_files(root, CODE):
        return ""
    stages = {}
    with Repo(str(root)) as repo:
        for stage in repo.stage.collect():
            params = [d for d in stage.deps if isinstance(d, ParamsDependency)]
            files = [d.def_path for d in stage.deps if not isinstance(d, ParamsDependency)]
            stages[stage.name] = Locked(
                stage.name,
                stage.cmd,
                {d.def_path: d.read_params() for d in params if d.def_path == str(paths.LOCK)},
                {path: content_md5(root, path) for path in files if path.startswith(CODE)},
                {},
            )
    return code_hash(stages)
