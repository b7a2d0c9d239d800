"""`gear accept-code`: update dvc.lock for code edits that change no result, without a new run.

The stages whose code was edited run again in a clone, each from its recorded inputs. If all their
outputs are bitwise equal, dvc.lock gets the hashes of the new code. Trainings take hours at scale:
they run only if asked for, and otherwise must be named as not proved.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from dvc.dependency.base import Dependency
from dvc.repo import Repo

from gear import paths
from gear.core.errors import InputError, StageFailed
from gear.runs import costs
from gear.runs.outside_inputs import current_hashes, outside_inputs
from gear.runs.recorded_checks import (
    DIFFERS,
    Check,
    in_order,
    recorded_checks,
    refuse_changes,
    require_inputs,
)
from gear.runs.rerun import Rerun, clone
from gear.runs.revision import (
    WORKSPACE,
    Cache,
    Locked,
    Revision,
    checkout_root,
    content_md5,
    find_revision,
)

CODE = "code "  # prefix of checks of code


def accept_code(unproved: list[str], *, everything: bool) -> str:
    """Prove that HEAD's code gives the recorded outputs, and write its hashes to dvc.lock.

    Args:
        unproved: Stages to accept without running them.
        everything: Run the trainings too.

    Returns:
        What was proved and what was not, in one line.

    Raises:
        InputError: if more than code changed, something is not committed, an input is missing, or
            a training is neither to be run nor named as unproved.
        StageFailed: if an output came out different: the edit changes results.
    """
    root = checkout_root()
    revision = find_revision("HEAD", root)
    lock, cache = revision.lock(), Cache(root)
    inputs = outside_inputs(revision, lock)
    refuse_changes(root, lock, inputs)
    if unknown := [name for name in unproved if name not in lock]:
        raise InputError(f"no stage {unknown[0]!r} in dvc.lock: there are {', '.join(lock)}")
    outside = current_hashes(root, inputs)
    with clone(revision, cache, outside) as rerun:
        checks = recorded_checks(revision, lock, cache, rerun.folder, rerun.outside)
        touched = changed_code(checks)
        edited = [name for name in in_order(lock) if name in touched]
        if not edited:
            return "dvc.lock has the hashes of this code already"
        proved = [name for name in edited if name not in unproved]
        costly = [name for name in proved if name in paths.TRAININGS]
        if costly and not everything:
            raise InputError(
                f"{', '.join(costly)}: trainings, which are not run again unless you say so: "
                f"`gear accept-code --all`, or `--unproved {' '.join(costly)}` to take over their "
                "code without a proof"
            )
        require_inputs(revision, lock, proved, cache, outside)
        for number, name in enumerate(proved, start=1):
            _log(f"running {name} again ({number} of {len(proved)})")
            _prove(rerun, lock[name])
        _require_same_code(root, rerun.folder, [lock[name] for name in edited])
    made = {path for stage in lock.values() for path in stage.outs}
    write_hashes(root, edited, data=made | rerun.outside.keys())
    accepted = Revision(WORKSPACE, "", root).lock()
    for name in edited:
        costs.carry_over(root, lock[name], accepted[name])
    parts = {
        "same outputs": proved,
        "not proved": [name for name in edited if name in unproved],
    }
    shown = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
    return f"dvc.lock has the hashes of this code; {shown}"


def _require_same_code(root: Path, proved: Path, stages: list[Locked]) -> None:
    """Check that nobody edited the code while stages ran with it in a clone.

    Raises:
        InputError: if a file or package differs between checkout and clone.
    """
    package = f"{paths.PACKAGE.name}/"
    for path in sorted({path for s in stages for path in s.deps if path.startswith(package)}):
        if content_md5(root, path) != content_md5(proved, path):
            raise InputError(f"{path} was changed meanwhile: commit it, and run this again")


def changed_code(checks: list[Check]) -> set[str]:
    """Return the stages whose code differs from the recorded one.

    Raises:
        InputError: if something else differs too.
    """
    differing = [check for check in checks if check.verdict == DIFFERS]
    for check in differing:
        if not check.what.startswith(CODE):
            raise InputError(
                f"{check.stage}: {check.what} is not the recorded one: more than code changed, so "
                "run `dvc repro`"
            )
    return {check.stage for check in differing}


def _prove(rerun: Rerun, stage: Locked) -> None:
    if reason := rerun.run(stage, set(), lambda line: _log(f"  {line}")):
        raise StageFailed(f"{stage.name} failed with this code: {reason}")
    for path, md5 in stage.outs.items():
        if content_md5(rerun.folder, path) != md5:
            raise StageFailed(
                f"{stage.name}: {path} came out different: the edit changes results (or this is "
                "another kind of processor than the recorded run's): run `dvc repro`"
            )


def write_hashes(root: Path, stages: list[str], data: set[str]) -> None:
    """Write the hashes of the code that these stages depend on to dvc.lock; others stay.

    data: dependencies that are not code: what stages write, and what is outside git.
    """
    logging.getLogger("dvc").setLevel(logging.WARNING)  # else it logs each entry
    with Repo(str(root)) as repo, repo.lock:
        for name in stages:
            stage = repo.stage.load_one(name=name)
            for dependency in stage.deps:
                if type(dependency) is Dependency and dependency.def_path not in data:
                    dependency.save()
            stage.dump(update_pipeline=False)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
