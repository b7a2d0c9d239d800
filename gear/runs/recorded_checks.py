"""What dvc.lock says of a revision, held against what is there; nothing runs and nothing is written."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from gear import paths
from gear.core.errors import InputError
from gear.runs.costs import outs_of
from gear.runs.revision import LOCK, PIPELINE, Cache, Locked, Missing, Revision, content_md5

SAME, WITHIN, DIFFERS, ABSENT, UNDECIDED = (
    "same",
    "within tolerance",
    "DIFFERS",
    "not here",
    "metrics decide",
)


@dataclass(frozen=True)
class Check:
    """One line of the verdict table."""

    stage: str
    what: str
    expected: str
    got: str
    verdict: str


def in_order(lock: dict[str, Locked]) -> list[str]:
    """Stages so that each comes after those whose outputs it reads."""
    upstream = {
        name: {o.name for o in lock.values() if set(o.outs) & set(stage.deps)}
        for name, stage in lock.items()
    }
    return list(TopologicalSorter(upstream).static_order())


def refuse_changes(root: Path, lock: dict[str, Locked]) -> None:
    """Raises `InputError` where the pipeline, or a file that dvc.lock names, has changes that are not committed."""
    files = {LOCK, PIPELINE} | {
        path for s in lock.values() for path in (*s.deps, *s.outs, *s.params)
    }
    shown = subprocess.run(
        ["git", "status", "--porcelain", "--", *sorted(files)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    if lines := shown.stdout.splitlines():
        names = ", ".join(line[3:] for line in lines[:6]) + (" ..." if len(lines) > 6 else "")
        raise InputError(
            f"changed and not committed: {names}: commit first, or name a revision (`gear verify HEAD` leaves them out)"
        )


def require_inputs(
    revision: Revision, lock: dict[str, Locked], stages: list[str], cache: Cache
) -> None:
    """Raises `InputError` where something that one of `stages` reads is at hand neither in git nor in DVC's cache."""
    for name in stages:
        for path, md5 in lock[name].deps.items():
            if revision.exists(path):
                continue
            if path in uncached(revision):
                raise InputError(
                    f"stage {name} reads {path}, which {revision.name} lacks: `git add {path}`, and commit it with {LOCK}"
                )
            try:
                cache.files(md5)
            except Missing as error:
                pull = "`dvc pull`, or of an experiment `dvc exp pull origin NAME`"
                raise InputError(f"stage {name} reads {path}, and {error}: {pull}") from None


def uncached(revision: Revision) -> set[str]:
    """Outputs that lie in git and not in DVC's cache."""
    stages = (revision.read_yaml(PIPELINE).get("stages") or {}).values()
    entries = [
        entry
        for s in stages
        for kind in ("outs", "metrics", "plots")
        for entry in s.get(kind) or []
        if isinstance(entry, dict)
    ]
    return {
        path
        for entry in entries
        for path, options in entry.items()
        if options and options.get("cache") is False
    }


def recorded_checks(
    revision: Revision, lock: dict[str, Locked], cache: Cache, clone: Path
) -> list[Check]:
    """Settings, commands, code, data and models of a revision against its dvc.lock; `clone` is a clean checkout of it."""
    pipeline = revision.read_yaml(PIPELINE).get("stages") or {}
    checks = [
        Check(name, "stage", f"in {PIPELINE}", "only there", DIFFERS)
        for name in pipeline
        if name not in lock
    ]
    settings = {file: revision.read_yaml(file) for stage in lock.values() for file in stage.params}
    made = {path for stage in lock.values() for path in stage.outs}
    seen: set[tuple[str, str]] = set()
    for name in in_order(lock):
        stage = lock[name]
        sources = {
            path: md5
            for path, md5 in stage.deps.items()
            if path not in made and (clone / path).exists()
        }
        checks += _definition(stage, pipeline.get(name), settings, sources, clone)
        for path, md5 in {**stage.deps, **stage.outs}.items():
            if path not in sources and (path, md5) not in seen:
                seen.add((path, md5))
                checks.append(_content(name, path, md5, cache, clone))
    return checks


def _definition(
    stage: Locked,
    defined: dict[str, Any] | None,
    settings: dict[str, Any],
    sources: dict[str, str],
    clone: Path,
) -> list[Check]:
    """Command, settings and code of a stage: one line where all is as recorded, else one for each that is not."""
    if defined is None:
        return [Check(stage.name, "stage", f"in {LOCK}", f"not in {PIPELINE}", DIFFERS)]
    found = (
        []
        if defined["cmd"] == stage.cmd
        else [Check(stage.name, "command", str(stage.cmd), str(defined["cmd"]), DIFFERS)]
    )
    known = set(stage.params.get(str(paths.PARAMS), {}))
    declared = [name for name in defined.get("params") or [] if isinstance(name, str)]
    for kind, recorded, named in (
        ("input", set(stage.deps), defined.get("deps") or []),
        ("output", set(stage.outs), outs_of(defined)),
        ("setting", known, declared),
    ):
        for path in sorted(recorded ^ set(named)):
            pair = (
                ("recorded", "not declared") if path in recorded else ("not recorded", "declared")
            )
            found.append(Check(stage.name, f"{kind} {path}", *pair, DIFFERS))
    for file, values in stage.params.items():
        for name, value in values.items():
            found += [
                Check(stage.name, f"setting {k}", a, b, DIFFERS)
                for k, a, b in diff_settings(value, _look_up(settings[file], name), name)
            ]
    for path, md5 in sources.items():
        if (got := content_md5(clone / path)) != md5:
            found.append(Check(stage.name, f"code {path}", md5, got, DIFFERS))
    whole = hashlib.md5(
        json.dumps([stage.cmd, stage.params, sources], sort_keys=True).encode(),
        usedforsecurity=False,
    ).hexdigest()
    return found or [
        Check(stage.name, f"command, settings, code ({len(sources)})", whole, whole, SAME)
    ]


def diff_settings(first: Any, second: Any, name: str) -> list[tuple[str, str, str]]:
    """Where two settings differ, as (dotted name, first, second)."""
    if isinstance(first, dict) and isinstance(second, dict):
        return [
            found
            for k in sorted(first.keys() | second.keys())
            for found in diff_settings(first.get(k), second.get(k), f"{name}.{k}")
        ]
    return [] if first == second else [(name, json.dumps(first), json.dumps(second))]


def _look_up(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _content(stage: str, path: str, md5: str, cache: Cache, clone: Path) -> Check:
    """A recorded input or output: in git where it is small and uncached, else in DVC's cache."""
    if (clone / path).exists():
        got = content_md5(clone / path)
        return Check(stage, f"{path} in git", md5, got, SAME if got == md5 else DIFFERS)
    what = f"{path} in the cache"
    try:
        bad = cache.corrupted_files(md5)
    except Missing:
        return Check(stage, what, md5, "-", ABSENT)
    return (
        Check(stage, what, md5, f"damaged: {', '.join(bad[:3]) or 'its list'}", DIFFERS)
        if bad
        else Check(stage, what, md5, md5, SAME)
    )


def disk_checks(root: Path, lock: dict[str, Locked]) -> list[Check]:
    """Outputs in the checkout that are not what dvc.lock says: whoever edits one by hand has other data than the run."""
    checks = []
    for name in in_order(lock):
        for path, md5 in lock[name].outs.items():
            if (root / path).exists() and (got := content_md5(root / path)) != md5:
                checks.append(Check(name, f"{path} in the checkout", md5, got, DIFFERS))
    return checks
