"""Run the pipeline on a schedule: stages of dvc.yaml as Prefect tasks, or a DVC experiment.

DVC owns the graph, the hashes and the caches. This flow schedules runs, shows their progress and
publishes the results.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run

from flows import artifacts
from flows.child_commands import checkout_lock, exit_with_worker, run_command
from flows.run_labels import Preset, StageName, add_tags, pipeline_name, tags_of
from flows.stage_errors import StageError
from flows.training_progress import TrainingProgress
from gear.core.errors import InputError
from gear.core.yaml_text import parse_yaml, read_yaml
from gear.dvc_experiments import copied_images, refuse_shallow_clone
from gear.params import from_values, list_presets
from gear.paths import PARAMS, WORK

OVERRIDE = re.compile(r"(?P<name>[a-z_0-9]+(\.[a-z_0-9]+)+)=(?P<value>[^\n]*)")
DVC = [sys.executable, "-m", "dvc"]
NAME = re.compile(r"(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.)")  # for git


def stage_names(folder: Path, targets: list[str]) -> list[str]:
    """Return `targets` and their dependencies in topological order; all stages without targets.

    Raises:
        InputError: if a target is not a stage.
    """
    import networkx as nx
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        graph = repo.index.graph
        ordered = nx.lexicographical_topological_sort(graph, key=lambda stage: stage.addressing)
        order = list(reversed(list(ordered)))
        known = {stage.addressing: stage for stage in order}
        if unknown := [t for t in targets if t not in known]:
            raise InputError(f"no stage {unknown[0]!r}: there are {', '.join(known)}")
        needed = set(order)
        if targets:
            needed = {s for t in targets for s in (known[t], *nx.descendants(graph, known[t]))}
        return [stage.addressing for stage in order if stage in needed]


def check_overrides(folder: Path, overrides: list[str]) -> None:
    """Check settings given as `section.key=value` against params.yaml, before anything runs.

    Raises:
        InputError: if there is no such setting, or a value is not allowed.
    """
    file = folder / PARAMS
    values = read_yaml(file, "write it with `gear preset quickstart`")
    for override in overrides:
        match = OVERRIDE.fullmatch(override)
        if match is None:
            raise InputError(f"override {override[:80]!r}: write section.key=value")
        *above, key = match["name"].split(".")
        section = values
        for name in above:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise InputError(f"override {override[:80]!r}: {name!r} is no section")
        section[key] = parse_yaml(f"value: {match['value']}".encode(), "override")["value"]
    from_values(values, f"{file.name} with the overrides")


def _should_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a stage crashed; mistakes, gates and kills are not retried."""
    try:
        state.result()
    except StageError as error:
        return error.retry
    except Exception:
        return False
    return False


RETRY_CRASH: Any = {"retries": 1, "retry_delay_seconds": 10, "retry_condition_fn": _should_retry}


@task(**RETRY_CRASH, persist_result=False)
def stage(name: str, folder: Path) -> None:
    """Run one stage by `dvc repro`, which may restore it from the cache or skip it."""
    show = TrainingProgress(get_run_logger().info)
    run_command([*DVC, "repro", "--single-item", name], folder, show)


@task(**RETRY_CRASH, persist_result=False)
def experiment(name: str, overrides: list[str], targets: list[str], folder: Path) -> None:
    """Run the whole pipeline as a DVC experiment in a temporary folder.

    States of its trainings are kept in the checkout, so that a run that crashed or was killed
    resumes if it is started again.

    Raises:
        InputError: in a shallow clone, where DVC would lose the experiment.
    """
    refuse_shallow_clone(folder)
    settings = [word for override in overrides for word in ("-S", override)]
    copied = copied_images(folder, _image_root(folder, overrides))
    command = [*DVC, "exp", "run", "--temp", "--name", name, *copied, *settings, *targets]
    show = TrainingProgress(get_run_logger().info)
    run_command(command, folder, show, {"GEAR_STATES": str(folder / WORK)}, is_experiment=True)


def _image_root(folder: Path, overrides: list[str]) -> str:
    """Return data.root of params.yaml with the overrides; "" if there is no such setting."""
    given = [text.removeprefix("data.root=") for text in overrides if text.startswith("data.root=")]
    if given:
        return str(parse_yaml(f"value: {given[-1]}".encode(), "override")["value"])
    file = folder / PARAMS
    data = read_yaml(file, "").get("data") if file.is_file() else None
    return str(data.get("root") or "") if isinstance(data, dict) else ""


@flow(name="pipeline", flow_run_name=pipeline_name, persist_result=False)
def pipeline(
    preset: Preset = "",
    overrides: list[str] | None = None,
    targets: list[StageName] | None = None,
    name: str = "",
    push: bool = True,
) -> None:
    """Run the pipeline of the working directory.

    Args:
        preset: A preset to write to params.yaml first (runs in place only); empty for params.yaml
            as it is.
        overrides: `section.key=value` settings of a named run, as `dvc exp run -S` takes them.
        targets: Stages to run, with their dependencies; none for all.
        name: Experiment name. With a name, the run is a DVC experiment in a temporary folder;
            without, it runs in the checkout. `{start}` in it becomes the scheduled start.
        push: Push the results if a default DVC remote is set, so that they outlive a worker's
            clone.
    """
    exit_with_worker()
    where = Path.cwd()
    if not (where / "dvc.yaml").is_file():
        raise InputError(f"{where}: no dvc.yaml here: run in a checkout")
    if overrides and not name:
        raise InputError(
            "overrides without a name would rewrite params.yaml: "
            "give the experiment a name, or a preset"
        )
    name = name.replace("{start}", f"{flow_run.scheduled_start_time:%Y%m%d-%H%M}")
    if name and (preset or not NAME.fullmatch(name)):
        raise InputError(
            f"name {name!r}: letters, digits, '.', '_' and '-'; a preset cannot be combined with it"
        )
    if overrides:
        check_overrides(where, overrides)
    if preset and preset not in list_presets().split():
        raise InputError(f"no preset {preset!r}: there are {', '.join(list_presets().split())}")
    add_tags(tags_of(where, overrides or [], preset=preset))
    with checkout_lock(where):
        order = stage_names(where, targets or [])
        if name:
            experiment(name, overrides or [], targets or [], where)
        else:
            if preset:
                run_command(
                    [sys.executable, "-m", "gear", "preset", preset], where, get_run_logger().info
                )
            _in_place(order, where)
        artifacts.publish_results(where, name, order)
        if push:
            _push(where, name)


def _push(folder: Path, name: str) -> None:
    """Push results to the default DVC and git remotes; log a message if one is missing."""
    logger = get_run_logger()
    git = artifacts.git_remote(folder)
    if not artifacts.data_remote(folder):
        logger.info(
            "no default DVC remote: the results stay in this checkout (`dvc remote add -d`)"
        )
    elif not name:
        run_command([*DVC, "push"], folder, logger.info)
    elif not git:
        logger.info(
            f"no git remote: experiment {name} stays in this checkout (`git remote add origin`)"
        )
    else:  # with its contents in the cache
        run_command([*DVC, "exp", "push", git, name], folder, logger.info)


def _in_place(order: list[str], folder: Path) -> None:
    progress = create_progress_artifact(
        progress=0.0, key="pipeline-progress", description=f"0 of {len(order)} stages"
    )
    assert isinstance(progress, UUID)
    for number, name in enumerate(order, start=1):
        stage.with_options(name=name)(name, folder)
        update_progress_artifact(
            progress,
            100.0 * number / len(order),
            description=f"{number} of {len(order)} stages, last {name}",
        )
