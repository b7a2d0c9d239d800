"""Check files of a revision against its dvc.lock; nothing is run or written."""

from __future__ import annotations

import hashlib
import json
import posixpath
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import load_path
from dvc_objects.fs.local import LocalFileSystem

from gear.core.errors import InputError
from gear.core.text import one_line
from gear.git_project import project_prefix
from gear.runs.outside_inputs import require_recorded
from gear.runs.revision import (
    LOCK,
    PIPELINE,
    Cache,
    Locked,
    MissingContentError,
    Revision,
    content_md5,
    inside_checkout,
)

SAME = "same"
WITHIN = "within tolerance"
DIFFERS = "DIFFERS"
ABSENT = "not here"
UNDECIDED = "metrics decide"
CACHED = " in the cache"  # endings of what was checked
OUTSIDE = " on this machine"


@dataclass(frozen=True)
class Check:
    """One row of the table of checks."""

    stage: str
    what: str
    expected: str
    got: str
    verdict: str


def in_order(lock: dict[str, Locked]) -> list[str]:
    """Return the stages in topological order: each after those whose outputs it reads."""
    upstream = {
        name: {other.name for other in lock.values() if set(other.outs) & set(stage.deps)}
        for name, stage in lock.items()
    }
    return list(TopologicalSorter(upstream).static_order())


def refuse_changes(root: Path, lock: dict[str, Locked], outside: list[str]) -> None:
    """Raise `InputError` if the pipeline or a file of dvc.lock has uncommitted changes.

    outside: inputs that are not in git, which need no commit.
    """
    files = {LOCK, PIPELINE}
    for stage in lock.values():
        files |= {*stage.deps, *stage.outs, *stage.params}
    files -= {*outside}
    shown = subprocess.run(
        [
            *("git", "--literal-pathspecs", "status", "--porcelain", "--no-renames", "-z"),
            *("--", *sorted(files)),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    )
    above = f"{project_prefix(root)}/"  # git names files by their paths from its root
    if changed := [entry[3:].removeprefix(above) for entry in shown.stdout.split("\0") if entry]:
        names = one_line(", ".join(changed[:6])) + (" ..." if len(changed) > 6 else "")
        raise InputError(
            f"changed and not committed: {names}: commit first, or name a revision "
            "(`gear verify HEAD` leaves them out)"
        )


def require_inputs(
    revision: Revision,
    lock: dict[str, Locked],
    stages: list[str],
    cache: Cache,
    outside: Mapping[str, str],
) -> None:
    """Raise `InputError` if an input of one of `stages` is not to be had.

    It is in git, in DVC's cache or, if neither holds it, as recorded on this machine (`outside`).
    """
    uncached = {
        path
        for stage in pipeline_of(revision).values()
        for path, options in entries(stage, "outs", "metrics", "plots")
        if options.get("cache") is False
    }
    for name in stages:
        for path, md5 in lock[name].deps.items():
            if path in outside:
                require_recorded(name, path, md5, outside[path])
                continue
            if revision.in_git(path):
                continue
            if path in uncached:
                raise InputError(
                    f"stage {name} reads {path}, which {revision.name} lacks: "
                    f"`git add {path}`, and commit it with {LOCK}"
                )
            try:
                cache.files(md5)
            except MissingContentError as error:
                raise InputError(
                    f"stage {name} reads {path}, and {error}: "
                    "`dvc pull`, or of an experiment `dvc exp pull origin NAME`"
                ) from None


def pipeline_of(revision: Revision) -> dict[str, Any]:
    """Return the stages of dvc.yaml."""
    return revision.read_yaml(PIPELINE).get("stages") or {}


def resolved_pipeline(revision: Revision, clone: Path) -> dict[str, Any]:
    """Return the stages of dvc.yaml with `${...}` replaced by params.

    Raises:
        InputError: if DVC cannot read it, or a stage writes outside the checkout: DVC deletes the
            outputs of a stage before it runs it.
    """
    try:
        with Repo(str(clone)) as repo:
            resolved = load_file(repo, str(clone / PIPELINE)).resolver.resolve()
    except DvcException as error:
        raise InputError(f"{PIPELINE} of {revision.name}: {' '.join(str(error).split())}") from None
    stages: dict[str, Any] = dict(resolved.get("stages") or {})
    for name, stage in stages.items():
        folder = str(stage.get("wdir") or "")
        for path, _ in entries(stage, "outs", "metrics", "plots"):
            if not inside_checkout(posixpath.normpath(posixpath.join(folder, str(path)))):
                raise InputError(
                    f"{PIPELINE} of {revision.name}: stage {name!r} writes {path!r}, which is not "
                    "in the checkout: nothing of this revision is run"
                )
    return stages


def entries(stage: dict[str, Any], *kinds: str) -> Iterator[tuple[str, Any]]:
    """Yield name and options of a stage's entries of some kinds, such as `outs` and `params`."""
    for kind in kinds:
        for entry in stage.get(kind) or []:
            yield from entry.items() if isinstance(entry, dict) else [(entry, {})]


def recorded_checks(
    revision: Revision,
    lock: dict[str, Locked],
    cache: Cache,
    clone: Path,
    outside: Mapping[str, str],
) -> list[Check]:
    """Check settings, commands, code, data and models of a revision against its dvc.lock.

    Args:
        revision: The revision.
        lock: Its dvc.lock.
        cache: The cache that has its data and models.
        clone: A clean checkout of it.
        outside: Inputs that neither git nor DVC holds, with the hashes that they have now.
    """
    pipeline = resolved_pipeline(revision, clone)
    checks = [
        Check(name, "stage", f"in {PIPELINE}", "only there", DIFFERS)
        for name in pipeline
        if name not in lock
    ]
    made = {path for stage in lock.values() for path in stage.outs}
    seen: set[tuple[str, str]] = set()
    for name in in_order(lock):
        stage = lock[name]
        code = {
            path: md5
            for path, md5 in stage.deps.items()
            if path not in made and path not in outside and (clone / path).exists()
        }
        checks += _definition(stage, pipeline.get(name), code, clone)
        for path, md5 in {**stage.deps, **stage.outs}.items():
            if path not in code and (path, md5) not in seen:
                seen.add((path, md5))
                checks.append(
                    _outside(name, path, md5, outside[path])
                    if path in outside
                    else _content(name, path, md5, cache, clone)
                )
    return checks


def _definition(
    stage: Locked, defined: dict[str, Any] | None, code: dict[str, str], clone: Path
) -> list[Check]:
    """Check command, settings and code of a stage: one check if all is as recorded."""
    if defined is None:
        return [Check(stage.name, "stage", f"in {LOCK}", f"not in {PIPELINE}", DIFFERS)]
    checks = []
    if defined["cmd"] != stage.cmd:
        checks.append(Check(stage.name, "command", str(stage.cmd), str(defined["cmd"]), DIFFERS))
    for kind, recorded, declared in (
        ("input", set(stage.deps), {path for path, _ in entries(defined, "deps")}),
        (
            "output",
            set(stage.outs),
            {path for path, _ in entries(defined, "outs", "metrics", "plots")},
        ),
        ("setting", {k for values in stage.params.values() for k in values}, _declared(defined)),
    ):
        for name in sorted(recorded - declared):
            row = ("recorded", "not declared")
            checks.append(Check(stage.name, f"{kind} {name}", *row, DIFFERS))
        for name in sorted(declared - recorded):
            row = ("not recorded", "declared")
            checks.append(Check(stage.name, f"{kind} {name}", *row, DIFFERS))
    for file, values in stage.params.items():
        settings = _settings(clone / file)
        for name, value in values.items():
            checks += [
                Check(stage.name, f"setting {key}", one, other, DIFFERS)
                for key, one, other in diff_settings(value, _look_up(settings, name), name)
            ]
    for path, md5 in code.items():
        if (got := content_md5(clone, path)) != md5:
            checks.append(Check(stage.name, f"code {path}", md5, got, DIFFERS))
    if checks:
        return checks
    whole = json.dumps([stage.cmd, stage.params, code], sort_keys=True).encode()
    digest = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    return [Check(stage.name, f"command, settings, code ({len(code)})", digest, digest, SAME)]


def _declared(stage: dict[str, Any]) -> set[str]:
    """Return the settings that a stage of dvc.yaml declares, of all files."""
    return {
        name
        for entry, keys in entries(stage, "params")
        for name in (keys if isinstance(keys, list) else [entry])
    }


def _settings(file: Path) -> Any:
    try:
        return load_path(str(file), LocalFileSystem())
    except (OSError, DvcException):
        return {}


def diff_settings(first: Any, second: Any, name: str) -> list[tuple[str, str, str]]:
    """Return where two settings differ, as (dotted name, first, second)."""
    if isinstance(first, dict) and isinstance(second, dict):
        return [
            difference
            for key in sorted(first.keys() | second.keys())
            for difference in diff_settings(first.get(key), second.get(key), f"{name}.{key}")
        ]
    return [] if first == second else [(name, json.dumps(first), json.dumps(second))]


def _look_up(tree: Any, name: str) -> Any:
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _outside(stage: str, path: str, md5: str, got: str) -> Check:
    """Check an input that neither git nor DVC holds: another one proves nothing about the run."""
    return Check(stage, path + OUTSIDE, md5, got or "-", SAME if got == md5 else ABSENT)


def _content(stage: str, path: str, md5: str, cache: Cache, clone: Path) -> Check:
    """Check a recorded input or output: in the cache, or in git if it is small and uncached."""
    if (clone / path).exists():
        got = content_md5(clone, path)
        return Check(stage, f"{path} in git", md5, got, SAME if got == md5 else DIFFERS)
    what = path + CACHED
    try:
        damaged = cache.damaged_files(md5)
    except MissingContentError:
        return Check(stage, what, md5, "-", ABSENT)
    if damaged:
        return Check(stage, what, md5, f"damaged: {', '.join(damaged[:3])}", DIFFERS)
    return Check(stage, what, md5, md5, SAME)


def disk_checks(root: Path, lock: dict[str, Locked]) -> list[Check]:
    """Return checks of outputs in the checkout that differ from dvc.lock, such as edited ones."""
    return [
        Check(name, f"{path} in the checkout", md5, got, DIFFERS)
        for name in in_order(lock)
        for path, md5 in lock[name].outs.items()
        if (got := content_md5(root, path)) not in (md5, "")
    ]
