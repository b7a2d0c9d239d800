"""`gear states`: list and delete the resumable states of trainings."""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING

from gear import paths

if TYPE_CHECKING:
    from gear.training.states import State

UNITS = (("s", 60), ("min", 60), ("h", 24))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear states`."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["prune"],
        help="delete the states of other settings, inputs or code than the present ones",
    )


def run(arguments: argparse.Namespace) -> str:
    """Return a table of the states, the newest first, or the deleted ones."""
    from gear.params import load_for_stage
    from gear.training.states import list_states, prune_states

    current = {
        stage: importlib.import_module(f"gear.stages.{stage}").identity(load_for_stage(stage))
        for stage in paths.TRAININGS
    }
    if arguments.action == "prune":
        deleted = prune_states(paths.STATES, current)
        freed = sum(state.size for state in deleted)
        lines = [f"deleted {state.folder}" for state in deleted]
        return "\n".join([*lines, f"states deleted: {len(deleted)}, {format_size(freed)}"])
    return table(list_states(paths.STATES, current)) or f"no states in {paths.STATES}"


def table(states: list[State]) -> str:
    """Return a table with one line a state; "" if there is none."""
    if not states:
        return ""
    rows = [("stage", "step", "size", "age", "folder", "differs in")]
    rows += [
        (
            state.stage,
            f"{state.step}{' (finished)' if state.finished else ''}",
            format_size(state.size),
            format_age(state.age),
            str(state.folder),
            ", ".join(state.differences) or "nothing: the next run resumes from it",
        )
        for state in states
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
