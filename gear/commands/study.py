"""`gear study`: run the arms of a study file as DVC experiments and write one page."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from gear import paths
from gear.commands.arguments import positive
from gear.core.errors import InputError, StageFailed
from gear.core.files import exclusive_lock, replace_file
from gear.dvc_experiments import copied_images, refuse_shallow_clone
from gear.params import Config
from gear.report.study_page import describe, write_page
from gear.runs.revision import checkout_root, find_revision
from gear.runs.study_check import refuse_lost_warm_up, refuse_unlike
from gear.runs.study_file import PlannedRun, Study, load_study
from gear.runs.study_records import Record, keep_record, load_record
from gear.runs.study_runner import finished, log_of, overrides, run_experiments, states_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear study`."""
    parser.add_argument("file", type=Path, help="a study file, as in studies/")
    parser.add_argument(
        "--jobs",
        type=positive,
        default=2,
        help="experiments at a time; CPU threads are divided among them (default 2)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="ARM",
        help="arms, or runs as ARM-SEED, to run (default: all)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run", action="store_true", help="say what would run, and for about how long"
    )
    what.add_argument(
        "--page", action="store_true", help="run nothing; write the page from the records"
    )


def run(arguments: argparse.Namespace) -> str:
    """Run what is missing and return the verdicts.

    Raises:
        InputError: if the study file is not valid.
        StageFailed: if a run failed, after all others have run.
    """
    root = checkout_root()
    study = load_study(arguments.file)
    chosen = _chosen(study, arguments.only)
    for run in study.runs:
        overrides(run)  # raises an error if it cannot be passed on
    records = _load(study, study.runs)
    missing = [run for run in chosen if run.name not in records]
    if missing and not arguments.page:
        refuse_unlike(study, missing, records.values(), root, arguments.jobs)
    if arguments.dry_run:
        return plan(study, missing, records, arguments.jobs)
    failed: dict[str, str] = {}
    if missing and not arguments.page:
        refuse_shallow_clone(root)
        refuse_lost_warm_up(missing, root)
        for images in {run.config.data.root for run in missing}:
            copied_images(root, images)  # raises an error if they cannot be copied
        with exclusive_lock(
            root / paths.WORK / f"study-{study.name}.lock",
            "{holder} is running this study",
        ):
            failed = _run_missing(study, missing, records, root, arguments.jobs)
    # The page has the study's order, not that in which runs happened to end.
    records = {run.name: records[run.name] for run in study.runs if run.name in records}
    page = study.folder / "index.html"
    replace_file(page, write_page(study, records, failed).encode())
    text = f"{describe(study, records)}\n{len(records)} of {len(study.runs)} runs; page: {page}"
    if failed:
        print(text)
        first, reason = next(iter(failed.items()))
        raise StageFailed(f"{len(failed)} of {len(missing)} runs failed; {first}: {reason}")
    return text


def plan(study: Study, missing: list[PlannedRun], records: dict[str, Record], jobs: int) -> str:
    """Return what would run and, from the records of other runs, for about how long."""
    lines = [f"{len(study.runs)} runs, {len(records)} finished, {len(missing)} to run:"]
    paces = [
        sum(record.seconds.get(stage, 0.0) for stage in ("joint", "generator"))
        / (record.flops["joint"] + record.flops.get("generator", 0.0))
        for record in records.values()
        if "joint" in record.seconds and record.flops.get("joint")
    ]
    others = [
        sum(
            seconds
            for stage, seconds in record.seconds.items()
            if stage not in ("joint", "generator", "tokenizer", "ingest", "features", "reference")
        )
        for record in records.values()
    ]
    total = 0.0
    by_arm: dict[str, float] = {}  # seeds cost the same
    for run in missing:
        if run.arm not in by_arm:
            cost = training_flops(run.config)
            by_arm[run.arm] = cost["joint"] + cost["generator"]
        flops = by_arm[run.arm]
        line = f"  {run.name}: {run.config.joint.steps} joint steps, "
        if run.config.generator.steps:
            line += f"{run.config.generator.steps} of the generator alone, "
        line += f"{flops / 1e12:.1f} TFLOP"
        if paces:
            seconds = mean(paces) * flops + mean(others)
            total += seconds
            line += f", about {seconds / 60:.0f} min"
        lines.append(line)
    if missing and paces:
        lines.append(f"about {total / jobs / 3600:.1f} hours, {jobs} at a time, without warm-ups")
    elif missing:
        lines.append("no run has finished here yet: how long they take is not known")
    return "\n".join(lines)


def training_flops(config: Config) -> dict[str, float]:
    """Return the FLOPs of all steps of the trainings."""
    from gear.commands import estimate

    warm, last = estimate.alone(config)
    step = sum(part.flops for part in estimate.measure(config))
    return {
        "tokenizer": warm * config.tokenizer.batch * config.tokenizer.steps,
        "joint": step * config.joint.batch * config.joint.steps,
        "generator": last * config.joint.batch * config.generator.steps,
    }


def _chosen(study: Study, only: list[str]) -> list[PlannedRun]:
    names = {run.name for run in study.runs} | set(study.config.arms)
    for name in only:
        if name not in names:
            raise InputError(
                f"no arm or run {name[:60]!r}: arms of {study.file} are "
                f"{', '.join(study.config.arms)}"
            )
    return [run for run in study.runs if not only or run.arm in only or run.name in only]


def _load(study: Study, runs: Iterable[PlannedRun]) -> dict[str, Record]:
    found = {run.name: load_record(study, run) for run in runs}
    return {name: record for name, record in found.items() if record is not None}


def _run_missing(
    study: Study,
    missing: list[PlannedRun],
    records: dict[str, Record],
    root: Path,
    jobs: int,
) -> dict[str, str]:
    """Run experiments, keep a record of each, and return the reasons of those that failed."""
    failed: dict[str, str] = {}

    def keep(run: PlannedRun) -> None:
        """Write the record of a finished run, and delete its resumable states."""
        try:
            revision = find_revision(run.experiment, root)
            records[run.name] = keep_record(study, run, revision, training_flops(run.config))
        except (InputError, OSError) as error:
            failed[run.name] = str(error)
        else:
            shutil.rmtree(states_folder(study, run, root), ignore_errors=True)

    for run in missing:
        try:
            if finished(run, root):  # the study was killed before it wrote the record
                keep(run)
        except InputError as error:
            failed[run.name] = str(error)
    left = [run for run in missing if run.name not in records | failed]
    outcomes = run_experiments(
        study,
        left,
        root,
        jobs=jobs,
        started=lambda run: print(f"{run.name}: started, log {log_of(study, run)}", flush=True),
    )
    for ended, outcome in enumerate(outcomes, start=1):
        run, minutes = outcome.run, outcome.seconds / 60
        if outcome.reason:
            failed[run.name] = outcome.reason
        else:
            keep(run)
        what = f"failed: {failed[run.name]}" if run.name in failed else "finished"
        print(f"{run.name}: {what}, {minutes:.1f} min ({ended} of {len(left)})", flush=True)
    return failed
