"""Find, list and delete the resumable states of trainings.

A state lies in `<states>/<stage>/<fingerprint>/`; its description.json holds the identity
and step of its training.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gear.core.errors import InputError
from gear.core.files import LockedError, exclusive_lock
from gear.process import GRACE
from gear.training.fingerprint import Identity

DESCRIPTION = "description.json"
NO_DESCRIPTION = "no description"
LOCK = "lock"
FROM = "-from-"  # in names of folders: between a training and the one whose state it started from
OLDER = "older"  # folder of the state before the latest
LONGEST = 1800.0  # seconds of a save or measurement that count at most
TIMES = 2.0  # times the slowest save and measurement, granted to do both once more and exit
# facts of a description that may change while the weights of the state stay as they are
NOT_OF_WEIGHTS = ("finished", "of_experiment", "save_seconds", "measure_seconds")
SECONDS = ("save_seconds", "measure_seconds")  # facts of a description
TAG = re.compile(r"(stopped-)?step-[0-9]{1,12}")


@dataclass(frozen=True)
class State:
    """One training's resumable state.

    finished: whether the training has ended and written its outputs.
    differences: how its settings, inputs, code and versions differ from the current ones.
    started_from: name of the state that `--from` named; "" if it has its own start.
    """

    stage: str
    folder: Path
    step: int
    finished: bool
    size: int  # bytes
    age: float  # seconds since it was saved
    differences: list[str]
    started_from: str

    def all_differences(self) -> list[str]:
        """Return its differences, and its start if that is another training's state."""
        start = [f"--from {self.started_from}"] if self.started_from else []
        return self.differences + start


def list_states(root: Path, current: Mapping[str, Identity]) -> list[State]:
    """Return the states of the stages in `current`, newest first."""
    states = []
    for stage, identity in current.items():
        for folder in state_folders(root / stage):
            with suppress(InputError, OSError):  # damaged, or deleted meanwhile
                states.append(_read_state(folder, identity))
    return sorted(states, key=lambda state: state.age)


def prune_states(root: Path, current: Mapping[str, Identity]) -> list[State]:
    """Delete the states that differ from the current identities and that no process has locked.

    A state without a description is kept if an input is absent, as a study's are: the next run may
    resume from it. What killed saves left of trainings without any state is deleted too.

    Returns:
        The deleted states.
    """
    for stage in current:
        for lock in (root / stage).glob(f"*/{LOCK}"):
            if not _has_states(lock.parent):
                delete_unlocked(lock.parent)
    deleted = []
    for state in list_states(root, current):
        if state.differences == [NO_DESCRIPTION] and current[state.stage].has_absent_inputs:
            continue
        if state.differences and delete_unlocked(state.folder):
            deleted.append(state)
    return deleted


def describe_nearest(root: Path, identity: Identity) -> str | None:
    """Return a message on the state of the same stage that differs least; None if there is none."""
    states = list_states(root, {identity.stage: identity})
    if not states:
        return None
    nearest = min(states, key=lambda state: len(state.all_differences()))
    differing = ", ".join(nearest.all_differences()[:6]) or "the same settings"
    return (
        f"found a state of {nearest.stage} at step {nearest.step} with {differing}; starting anew "
        f"(`gear {nearest.stage} --from {nearest.folder}` to go on from it)"
    )


def delete_finished(stage_folder: Path, *, but: Path, of_experiment: bool) -> None:
    """Delete the states of finished trainings of a stage, except one.

    A state of the same training after more steps is kept too.

    Args:
        stage_folder: The folder of the stage's states.
        but: The state to keep.
        of_experiment: Delete those of experiments in temporary folders, else those of the checkout.
    """
    kept = saved_step(but) or 0
    for folder in state_folders(stage_folder):
        description = read_description(folder)
        same_kind = bool(description.get("of_experiment")) == of_experiment
        is_longer = _fingerprint(folder) == _fingerprint(but) and (saved_step(folder) or 0) > kept
        if folder != but and description.get("finished") and same_kind and not is_longer:
            delete_unlocked(folder)


def delete_unlocked(folder: Path) -> bool:
    """Delete a state unless a process has locked it. Returns whether it was deleted."""
    try:
        with exclusive_lock(folder / LOCK, "held by {holder}"):
            shutil.rmtree(folder)
    except LockedError:
        return False
    return True


def state_folders(stage_folder: Path) -> list[Path]:
    """Return the folders of a stage that hold a state."""
    return sorted(file.parent for file in stage_folder.glob("*/latest"))


def read_description(folder: Path) -> dict[str, Any]:
    """Return the description of a state; {} if it is missing or cannot be read."""
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return description if isinstance(description, dict) else {}


def was_started_from(folder: Path, source: Path) -> bool:
    """Return whether the state of a folder was started from the state that `source` has now.

    False if one of them has no description, because that cannot be known then.
    """
    origin = read_description(folder).get("started_from")
    current = read_description(source)
    if not isinstance(origin, dict) or not current:
        return False
    return _of_weights(origin) == _of_weights(current)


def _of_weights(description: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fact for name, fact in description.items() if name not in NOT_OF_WEIGHTS}


def grace(root: Path) -> float:
    """Return how many seconds to let a training finish its step, save and exit.

    That is `GRACE` plus twice the slowest save and twice the slowest measurement under `root`, of
    each of which half an hour counts at most. Those of a study's runs count too.
    """
    files = [*root.glob(f"*/*/{DESCRIPTION}"), *root.glob(f"study-*/*/*/*/{DESCRIPTION}")]
    found = [read_description(file.parent) for file in files]
    slowest = [
        max((s for s in taken if isinstance(s, float) and s > 0), default=0.0)
        for taken in ([one.get(name) for one in found] for name in SECONDS)
    ]
    return GRACE + TIMES * sum(min(seconds, LONGEST) for seconds in slowest)


def read_tag(folder: Path) -> str:
    """Return the name of the newest state of a folder.

    Raises:
        InputError: if the file `latest` is missing or damaged.
    """
    file = folder / "latest"
    try:
        tag = file.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    if not TAG.fullmatch(tag):
        raise InputError(
            f"{file}: damaged: write the name of a state beside it into it, such as step-100, or "
            f"delete {folder} to start anew"
        )
    return tag


def saved_step(folder: Path) -> int | None:
    """Return the step of the newest state of a folder; None if it has none or it is damaged."""
    try:
        return step_of(read_tag(folder))
    except InputError:
        return None


def tagged(folder: Path) -> list[Path]:
    """Return the states in a training's folder, that in `older/` too, by their names alone."""
    found = (*folder.glob("*step-*"), *(folder / OLDER).glob("*step-*"))
    return [path for path in found if TAG.fullmatch(path.name)]


def step_of(tag: str) -> int:
    """Return the step of a state's tag.

    >>> step_of("stopped-step-12")
    12
    """
    return int(tag.rsplit("-", 1)[1])


def _fingerprint(folder: Path) -> str:
    return folder.name.partition("-")[0]


def _has_states(folder: Path) -> bool:
    """Return whether a training's folder holds a state, also one that nothing points to."""
    return (folder / "latest").exists() or bool(tagged(folder))


def _read_state(folder: Path, identity: Identity) -> State:
    description = read_description(folder)
    latest = folder / "latest"
    differences = identity.differences(description) if description else [NO_DESCRIPTION]
    if _fingerprint(folder) == identity.fingerprint:
        differences = []  # also if a power cut left no description
    return State(
        identity.stage,
        folder,
        step_of(read_tag(folder)),
        bool(description.get("finished")),
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        time.time() - latest.stat().st_mtime,
        differences,
        folder.name.partition(FROM)[2],
    )
