"""`gear states`: list and delete the resumable states of trainings."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gear import paths
from gear.core.errors import InputError
from gear.core.files import LockedError, exclusive_lock

if TYPE_CHECKING:
    from gear.params import Config
    from gear.training.fingerprint import Identity
    from gear.training.states import State

UNITS = (("s", 60), ("min", 60), ("h", 24))
STUDY_FILES = Path("studies")  # where study files are usually kept


@dataclass(frozen=True)
class Group:
    """States in one folder: those of the checkout, or those of a study's run.

    identities: Current identities by stage, which the states are compared with.
    run: The study's run, as in `study openmoji, gear-0`; "" for the checkout.
    fault: Why there is nothing to compare the states with; "" if there is.
    may_delete: Whether states that differ may be deleted.
    """

    folder: Path
    identities: Mapping[str, Identity]
    run: str = ""
    fault: str = ""
    may_delete: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear states`."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["prune"],
        help="delete the states of other settings, inputs or code than the present ones; those of "
        "studies are compared with their study file",
    )


def run(arguments: argparse.Namespace) -> str:
    """Return a table of the states, the newest first, or the deleted ones."""
    from gear.params import load_for_stage
    from gear.training.states import list_states, prune_states

    current = {
        stage: importlib.import_module(f"gear.stages.{stage}").identity(load_for_stage(stage))
        for stage in paths.TRAININGS
    }
    groups = [Group(paths.STATES, current), *study_groups(current)]
    if arguments.action == "prune":
        deleted = [
            state
            for group in groups
            if group.may_delete
            for state in prune_states(group.folder, group.identities)
        ]
        freed = sum(state.size for state in deleted)
        lines = [f"deleted {state.folder}" for state in deleted]
        lines += [f"deleted {file}, older cached tokens" for file in prune_tokens()]
        return "\n".join([*lines, f"states deleted: {len(deleted)}, {format_size(freed)}"])
    states = [
        (state, group) for group in groups for state in list_states(group.folder, group.identities)
    ]
    return table(states) or f"no states in {paths.STATES}"


def prune_tokens() -> list[Path]:
    """Delete cached tokens of frozen tokenizers, except the file that was used last, and drafts.

    Nothing is deleted while a training of this checkout runs that may read them.

    Returns:
        The deleted files.
    """
    files = sorted(paths.TOKENS.glob("*.npy"), key=lambda file: file.stat().st_mtime)
    old = [*files[:-1], *paths.TOKENS.glob("*.partial")]
    try:
        with ExitStack() as locks:
            for stage in ("joint", "generator") if old else ():
                lock = paths.WORK / stage / "lock"
                locks.enter_context(exclusive_lock(lock, "held by {holder}"))
            for file in old:
                file.unlink()
    except LockedError:
        return []
    return old


def study_groups(current: Mapping[str, Identity]) -> list[Group]:
    """Return the states of each run of each study, with the identities that its file plans.

    Study files are looked for in `STUDY_FILES`. Without a valid one, the states may belong to a
    study that goes on, so they must not be deleted.

    Args:
        current: Identities of the checkout's trainings.
    """
    from gear.runs.study_file import load_study

    groups = []
    for study in sorted(paths.WORK.glob("study-*/")):
        name = study.name.removeprefix("study-")
        file = STUDY_FILES / f"{name}.yaml"
        try:
            planned = {run.name: run.config for run in load_study(file).runs}
            is_valid = True
        except InputError:
            planned, is_valid = {}, False
        for folder in sorted(study.glob("*/")):
            config = planned.get(folder.name)
            fault = "" if config else f"no run {folder.name} in {file}"
            groups.append(
                Group(
                    folder,
                    {stage: _planned(identity, config) for stage, identity in current.items()},
                    run=f"study {name}, {folder.name}",
                    fault=fault if is_valid else f"unknown: no valid {file}",
                    may_delete=is_valid,
                )
            )
    return groups


def _planned(identity: Identity, config: Config | None) -> Identity:
    """Return the identity that a stage's training has in a run of a study.

    Inputs are those of the run's temporary folder, so they are not compared. Every setting differs
    if there is no such run.
    """
    from gear.params import declared_settings
    from gear.training.fingerprint import ABSENT, mathematical_settings

    settings = {}
    if config is not None:
        declared = declared_settings(config, identity.stage)
        settings = mathematical_settings(declared.model_dump(mode="json"))
    return replace(identity, settings=settings, inputs=dict.fromkeys(identity.inputs, ABSENT))


def table(states: list[tuple[State, Group]]) -> str:
    """Return a table with one line a state, the newest first; "" if there is none."""
    if not states:
        return ""
    rows = [("stage", "step", "size", "age", "folder", "differs in")]
    rows += [
        (
            f"{state.stage} ({group.run})" if group.run else state.stage,
            f"{state.step}{' (finished)' if state.finished else ''}",
            format_size(state.size),
            format_age(state.age),
            str(state.folder),
            group.fault
            or ", ".join(state.all_differences())
            or "nothing: the next run resumes from it",
        )
        for state, group in sorted(states, key=lambda entry: entry[0].age)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def format_size(size: float) -> str:
    """Return a number of bytes as text with a unit.

    >>> format_size(1536 * 1024)
    '1.5 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def format_age(seconds: float) -> str:
    """Return an age as text with a unit.

    >>> format_age(7300)
    '2 h'
    """
    for unit, factor in UNITS:
        if seconds < factor:
            return f"{seconds:.0f} {unit}"
        seconds /= factor
    return f"{seconds:.0f} days"
