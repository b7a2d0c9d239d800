"""`gear verify`: whether a recorded run can be made again.

First what dvc.lock says is held against what is there: settings, commands and code of the revision, data and models in DVC's cache, byte
by byte. Then chosen stages run again in a scratch clone, each from its recorded inputs, and their outputs have to be the same to the bit.
On hardware of another class rounding differs and grows: there a stage runs on what was made again before it, and its metrics have to
agree within a tolerance.
"""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

from gear import paths
from gear.core.errors import InputError, StageFailed
from gear.runs import costs
from gear.runs.recorded_checks import (
    ABSENT,
    DIFFERS,
    SAME,
    UNDECIDED,
    WITHIN,
    Check,
    disk_checks,
    in_order,
    recorded_checks,
    refuse_changes,
    require_inputs,
)
from gear.runs.rerun import Scratch, scratch
from gear.runs.revision import (
    LOCK,
    PIPELINE,
    Cache,
    Locked,
    Missing,
    Revision,
    checkout_root,
    content_md5,
    find_revision,
)

TRAININGS = ("tokenizer", "joint", "generator")  # hours at scale: they run again only when named

FLOOR = 0.005  # absolute part of the tolerance, for shares near 0

COMMIT_ROW = re.compile(rb"<tr><td>git commit of code and settings</td><td>[^<]*</td></tr>")

HARDWARE_ROW = re.compile(rb"<tr><td>hardware</td><td>([^<]*)</td></tr>")


def verify(
    name: str | None, stages: list[str] | None, *, everything: bool, tolerance: float
) -> str:
    """Check the run of a revision (None: HEAD, with nothing uncommitted) and run `stages` again (None: all but the trainings).

    `everything` runs the trainings too. `tolerance` is a share, for metrics on hardware of another class.

    Returns the verdict table. Raises `StageFailed` after printing it where the run is not reproduced, `InputError` where that cannot be
    decided: an unknown revision or stage, uncommitted changes, inputs that are not at hand.
    """
    root = checkout_root()
    revision = find_revision(name or "HEAD", root)
    if not revision.commit:
        raise InputError("the workspace is no revision: commit the run, then `gear verify`")
    lock, cache = revision.lock(), Cache(root)
    if name is None:
        refuse_changes(root, lock)
    again = choose(lock, list(lock) if everything else stages)
    require_inputs(revision, lock, again, cache)
    with scratch(root, revision.commit, cache) as clone:
        checks = recorded_checks(revision, lock, cache, clone.folder)
        checks += [] if name else disk_checks(root, lock)
        rerun = _Rerun(root, revision, lock, cache, clone, tolerance)
        checks += rerun.run(again)
    print(table(checks))
    failed = [c for c in checks if c.verdict == DIFFERS]
    if failed:
        raise StageFailed(
            f"not reproduced: {len(failed)} of {len(checks)} checks differ, the first: {failed[0].stage}, {failed[0].what}"
        )
    if any(c.verdict == UNDECIDED for c in checks) and not rerun.measured:
        raise StageFailed(
            "not decided: outputs differ as they may on other hardware, and no metric was measured again: add `evaluate`"
        )
    absent = sum(c.verdict == ABSENT for c in checks)
    note = (
        f"; {absent} outputs are not in this cache (`dvc pull`) and were not looked at"
        if absent
        else ""
    )
    return f"{revision.name} ({revision.commit[:12]}) is reproduced: {len(checks)} checks, ran again: {', '.join(again) or 'nothing'}{note}"


def choose(lock: dict[str, Locked], stages: list[str] | None) -> list[str]:
    """The stages to run again, in the order of the graph. Raises `InputError` on one that is not in dvc.lock."""
    order = in_order(lock)
    if unknown := [s for s in stages or [] if s not in lock]:
        raise InputError(f"no stage {unknown[0]!r} in {LOCK}: there are {', '.join(order)}")
    return [s for s in order if (s not in TRAININGS if stages is None else s in stages)]


def table(checks: list[Check]) -> str:
    """The verdict table as text: hashes cut to 12 digits, other values whole."""
    rows = [("stage", "checked", "expected", "got", "verdict")]
    rows += [(c.stage, c.what, _short(c.expected), _short(c.got), c.verdict) for c in checks]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _short(text: str) -> str:
    return (
        text[:12]
        if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", text)
        else text
        if len(text) <= 60
        else f"{text[:57]}..."
    )


class _Rerun:
    """Stages run again, and what became of them."""

    def __init__(
        self,
        root: Path,
        revision: Revision,
        lock: dict[str, Locked],
        cache: Cache,
        clone: Scratch,
        tolerance: float,
    ) -> None:
        self.root, self.revision, self.lock, self.cache, self.clone, self.tolerance = (
            root,
            revision,
            lock,
            cache,
            clone,
            tolerance,
        )
        self.here = costs.hardware_class()
        self.pipeline = revision.read_yaml(PIPELINE).get("stages") or {}
        self.kept: set[str] = (
            set()
        )  # outputs that rounding made another: what reads them is judged by its metrics
        self.measured = False  # whether a metric was made again from such outputs

    def run(self, names: list[str]) -> list[Check]:
        """Run stages in this order."""
        checks = []
        for number, name in enumerate(names, start=1):
            print(f"running {name} again ({number} of {len(names)})", file=sys.stderr, flush=True)
            checks += self._stage(self.lock[name])
        return checks

    def _stage(self, stage: Locked) -> list[Check]:
        for path, md5 in stage.deps.items():
            if path in self.kept:
                continue
            if not self.revision.exists(path):
                self.clone.place(path, md5)
            elif any(
                path in other.outs for other in self.lock.values()
            ):  # a stage before may have made another
                (self.clone.folder / path).write_bytes(self.revision.read(path) or b"")
        if reason := self.clone.run(
            stage, lambda line: print(f"  {line}", file=sys.stderr, flush=True)
        ):
            return [Check(stage.name, "ran again", "exit code 0", reason, DIFFERS)]
        checks = {path: self._output(stage, path, md5) for path, md5 in stage.outs.items()}
        self.kept |= {
            path for path, check in checks.items() if check.verdict in (WITHIN, UNDECIDED)
        }
        return list(checks.values())

    def _output(self, stage: Locked, path: str, md5: str) -> Check:
        made = self.clone.folder / path
        got, what = content_md5(made), f"{path} made again"
        metrics = [
            entry if isinstance(entry, str) else next(iter(entry))
            for entry in self.pipeline[stage.name].get("metrics") or []
        ]
        rounded = bool(self.kept & set(stage.deps))
        self.measured |= rounded and path in metrics
        if got == md5:
            return Check(stage.name, what, md5, got, SAME)
        if path == str(paths.PAGE) and self._same_page(md5, made):
            return Check(stage.name, f"{what}, but for the commit it names", md5, got, SAME)
        if not rounded and self._hardware(stage) in (self.here, ""):
            return Check(stage.name, what, md5, got or "nothing", DIFFERS)
        if path not in metrics:
            return Check(stage.name, f"{what} on other hardware", md5, got, UNDECIDED)
        worst = disagreement(
            self.revision.read_json(path), json.loads(made.read_bytes()), self.tolerance
        )
        if worst:
            return Check(stage.name, f"{what}: {worst[0]}", worst[1], worst[2], DIFFERS)
        return Check(
            stage.name, f"{what} on other hardware, to {self.tolerance:.0%}", md5, got, WITHIN
        )

    def _same_page(self, md5: str, made: Path) -> bool:
        """Whether two report pages differ in nothing but the commit: a run before its commit and one after it name two."""
        try:
            return COMMIT_ROW.sub(b"", self.cache.read(md5)) == COMMIT_ROW.sub(
                b"", made.read_bytes()
            )
        except (Missing, OSError):
            return False

    def _hardware(self, stage: Locked) -> str:
        """The hardware class of the recorded run: by this machine's record, else by the run's report page; '' where nobody knows."""
        if record := costs.find(self.root, stage.name, stage.outs):
            return str(record["hardware"])
        page = next(
            (s.outs[str(paths.PAGE)] for s in self.lock.values() if str(paths.PAGE) in s.outs), ""
        )
        try:
            row = HARDWARE_ROW.search(self.cache.read(page))
        except Missing:
            return ""
        return unescape(row.group(1).decode()) if row else ""


def disagreement(
    expected: Any, got: Any, tolerance: float, name: str = ""
) -> tuple[str, str, str] | None:
    """The first value that differs by more than `tolerance` of the larger one plus `FLOOR`, as (name, expected, got); else None."""
    if isinstance(expected, dict) and isinstance(got, dict):
        pairs = [
            (f"{name}.{k}".lstrip("."), expected.get(k), got.get(k))
            for k in sorted(expected.keys() | got.keys())
        ]
        return next(
            (found for k, a, b in pairs if (found := disagreement(a, b, tolerance, k))), None
        )
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (expected, got))
    agree = (
        abs(expected - got) <= tolerance * max(abs(expected), abs(got)) + FLOOR
        if numbers
        else expected == got
    )
    return None if agree else (name, str(expected), str(got))
