"""Refuse runs of a study that could not be compared, before they start."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.repo.graph import collect_pipeline
from dvc.stage import PipelineStage

from gear import paths
from gear.core.errors import InputError
from gear.git_project import untracked_files
from gear.params import flatten
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


def refuse_lost_warm_up(runs: Sequence[PlannedRun], root: Path) -> None:
    """Raise an error if runs would each train the warm tokenizer that they should share.

    If dvc.lock has an output with a run's settings that DVC's cache lacks, as in a clone, DVC makes
    it again in each experiment and does not look in its run cache. Of stages before the tokenizer,
    that costs time only: a note names them.

    Raises:
        InputError: if the tokenizer is such an output. One line names the stages to run once.
    """
    with Repo(str(root)) as repo:
        graph = repo.index.graph
        joint = repo.stage.load_one(name="joint")
        above = [stage for stage in collect_pipeline(joint, graph) if stage is not joint]
        uncached = {
            stage.name
            for stage in above
            if any(out.use_cache and out.hash_info and out.changed_cache() for out in stage.outs)
        }
        lost = [] if not uncached else [name for run in runs for name in _matching(above, run)]
    names = " ".join(stage.name for stage in above if stage.name in uncached.intersection(lost))
    once = f"first `dvc pull {names}` or `dvc repro {names}`"
    lacks = "dvc.lock has results of these settings that DVC's cache lacks"
    if "tokenizer" in names.split():
        raise InputError(f"{lacks}, so that each run would train its own warm tokenizer: {once}")
    if names:
        print(f"note: {lacks}: each run makes its own. To save time, {once}", file=sys.stderr)


def _matching(stages: Sequence[PipelineStage], run: PlannedRun) -> list[str]:
    """Return which stages, in the order of the graph, dvc.lock has with a run's settings."""
    values = flatten(run.config.model_dump(mode="json"))
    made = {out.def_path for stage in stages for out in stage.outs}
    matching: set[str] = set()  # outputs
    names = []
    for stage in stages:
        params = [d for d in stage.deps if isinstance(d, ParamsDependency)]
        others = [d for d in stage.deps if not isinstance(d, ParamsDependency)]
        if (
            not stage.changed_stage()
            and all(_has_settings(d, values) for d in params)
            and all(
                d.def_path in matching if d.def_path in made else d.exists and not d.changed()
                for d in others
            )
        ):
            matching |= {out.def_path for out in stage.outs}
            names.append(stage.name)
    return names


def _has_settings(locked: ParamsDependency, values: dict[str, Any]) -> bool:
    """Return whether recorded params are those of a run, or of the checkout in other files."""
    if locked.def_path != str(paths.PARAMS):
        return not locked.changed()
    recorded = flatten(locked.hash_info.value or {})
    return bool(recorded) and all(values.get(key) == value for key, value in recorded.items())


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
