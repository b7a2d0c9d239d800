"""`gear verify`: check whether a recorded run can be reproduced.

First files are checked against dvc.lock: settings, commands and code of the revision, data and
models in DVC's cache, byte by byte. Then stages run again in a clone, each from its recorded
inputs, and their outputs must be bitwise equal. On hardware of another class rounding differs and
grows: there a stage runs on the outputs of stages that ran again before it, and its metrics must
agree within a tolerance.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from gear import paths
from gear.core.errors import InputError, StageFailed
from gear.core.hardware import hardware_class
from gear.runs import costs
from gear.runs.outside_inputs import current_hashes, outside_inputs
from gear.runs.recorded_checks import (
    ABSENT,
    CACHED,
    DIFFERS,
    OUTSIDE,
    SAME,
    UNDECIDED,
    WITHIN,
    Check,
    disk_checks,
    entries,
    in_order,
    pipeline_of,
    recorded_checks,
    refuse_changes,
    require_inputs,
)
from gear.runs.rerun import Rerun, clone
from gear.runs.revision import (
    LOCK,
    Cache,
    Locked,
    Revision,
    checkout_root,
    content_md5,
    find_revision,
)

FLOOR = 0.005  # absolute part of the tolerance, for fractions near 0


def verify(
    name: str | None, stages: list[str] | None, *, everything: bool, tolerance: float
) -> str:
    """Check a recorded run and run stages of it again; print the table of checks.

    Args:
        name: A revision or experiment; None for HEAD with nothing uncommitted.
        stages: Stages to run again; None for all but the trainings.
        everything: Run the trainings too.
        tolerance: Relative tolerance of metrics on hardware of another class.

    Returns:
        The verdict in one line: which stages ran again, of which only the recorded hashes were
        checked, and which outputs were not checked.

    Raises:
        StageFailed: if the run is not reproduced.
        InputError: if that cannot be decided: an unknown revision or stage, uncommitted changes,
            missing inputs or, if no stages are named, outputs that are neither in the cache nor
            made again.
    """
    root = checkout_root()
    revision = find_revision("HEAD" if name is None else name, root)
    if not revision.commit:
        raise InputError("the workspace is no revision: commit the run, then `gear verify`")
    lock = revision.lock()
    cache = Cache(root)
    inputs = outside_inputs(revision, lock)
    if name is None:
        refuse_changes(root, lock, inputs)
    again = choose_stages(lock, list(lock) if everything else stages)
    outside = current_hashes(root, inputs)
    require_inputs(revision, lock, again, cache, outside)
    with clone(revision, cache, outside) as rerun:
        checks = recorded_checks(revision, lock, cache, rerun.folder, rerun.outside)
        if name is None:
            checks += disk_checks(root, lock)
        outputs = _RemadeOutputs(revision, lock, rerun, tolerance)
        checks += outputs.run(again)
    print(table(checks))
    differing = [check for check in checks if check.verdict == DIFFERS]
    if differing:
        raise StageFailed(
            f"not reproduced: {len(differing)} of {len(checks)} checks differ, "
            f"the first: {differing[0].stage}, {differing[0].what}"
        )
    if any(check.verdict == UNDECIDED for check in checks) and not outputs.metrics_compared:
        raise StageFailed(
            "not decided: outputs differ as they may on other hardware, "
            "and no metric was measured again: add `evaluate`"
        )
    message = f"{revision.name} ({revision.commit[:12]}), {len(checks)} checks: "
    message += "; ".join(verdicts(checks, lock, again))
    if _absent_outputs(checks, lock, again) and not stages:
        raise InputError(f"{message}: `dvc pull` brings what is not in the cache")
    if _changed_inputs(checks) and not stages:
        raise InputError(message)
    return message


def verdicts(checks: list[Check], lock: dict[str, Locked], again: list[str]) -> list[str]:
    """Return a verdict for each group of stages, which claims no more than was checked."""
    rounded = {check.stage for check in checks if check.verdict in (WITHIN, UNDECIDED)}
    same = [name for name in again if name not in rounded]
    within = [name for name in again if name in rounded]
    absent = _absent_outputs(checks, lock, again)
    not_run = [
        name
        for name in in_order(lock)
        if name not in again and not set(lock[name].outs) & {*absent}
    ]
    outcome = {
        "made again, same bytes": same,
        "made again, metrics within tolerance": within,
        "recorded hashes agree, nothing was run": not_run,
        "not in the cache, not looked at": absent,
        "not here as the run read it, not looked at": _changed_inputs(checks),
    }
    return [f"{verdict}: {', '.join(names)}" for verdict, names in outcome.items() if names]


def _absent_outputs(checks: list[Check], lock: dict[str, Locked], again: list[str]) -> list[str]:
    """Return recorded contents that are not in the cache and were not made again."""
    made = {path for name in again for path in lock[name].outs}
    return sorted(set(_absent(checks, CACHED)) - made)


def _changed_inputs(checks: list[Check]) -> list[str]:
    """Return inputs outside git and DVC that are gone or no longer as recorded."""
    return _absent(checks, OUTSIDE)


def _absent(checks: list[Check], where: str) -> list[str]:
    return [
        check.what.removesuffix(where)
        for check in checks
        if check.verdict == ABSENT and check.what.endswith(where)
    ]


def choose_stages(lock: dict[str, Locked], stages: list[str] | None) -> list[str]:
    """Return the stages to run again, in topological order: by default all but trainings.

    Raises:
        InputError: if one is not in dvc.lock.
    """
    order = in_order(lock)
    if unknown := [stage for stage in stages or [] if stage not in lock]:
        raise InputError(f"no stage {unknown[0]!r} in {LOCK}: there are {', '.join(order)}")
    if stages is None:  # trainings take hours at scale: they run again only when named
        return [stage for stage in order if stage not in paths.TRAININGS]
    return [stage for stage in order if stage in stages]


def table(checks: list[Check]) -> str:
    """Return the checks as a text table: hashes cut to 12 digits, other values to 60."""
    rows = [("stage", "checked", "expected", "got", "verdict")]
    rows += [(c.stage, c.what, _short(c.expected), _short(c.got), c.verdict) for c in checks]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _short(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass
class _RemadeOutputs:
    """Runs stages again and compares their outputs with the recorded ones."""

    revision: Revision
    lock: dict[str, Locked]
    rerun: Rerun
    tolerance: float
    rounded: set[str] = field(default_factory=set)  # outputs that other hardware made differently
    metrics_compared: bool = False  # whether a metric was made again from such outputs

    def run(self, names: list[str]) -> list[Check]:
        """Run stages again, in this order."""
        checks: list[Check] = []
        for number, name in enumerate(names, start=1):
            _log(f"running {name} again ({number} of {len(names)})")
            stage = self.lock[name]
            if reason := self.rerun.run(stage, self.rounded, lambda line: _log(f"  {line}")):
                checks.append(Check(name, "ran again", "exit code 0", reason, DIFFERS))
                continue
            made = {path: self._compare(stage, path, md5) for path, md5 in stage.outs.items()}
            checks += made.values()
            self.rounded |= {p for p, c in made.items() if c.verdict in (WITHIN, UNDECIDED)}
        return checks

    def _compare(self, stage: Locked, path: str, md5: str) -> Check:
        got = content_md5(self.rerun.folder, path)
        what = f"{path} made again"
        is_metric = path in dict(entries(pipeline_of(self.revision)[stage.name], "metrics"))
        from_rounded = bool(self.rounded & set(stage.deps))
        self.metrics_compared |= from_rounded and is_metric
        if got == md5:
            return Check(stage.name, what, md5, got, SAME)
        same_class = self._recorded_hardware(stage) in (hardware_class(), "") or portable(stage)
        if not from_rounded and same_class:
            return Check(stage.name, what, md5, got or "nothing", DIFFERS)
        if not is_metric:
            return Check(stage.name, f"{what} on other hardware", md5, got, UNDECIDED)
        metrics = json.loads((self.rerun.folder / path).read_bytes())
        if worst := disagreement(self.revision.read_json(path), metrics, self.tolerance):
            return Check(stage.name, f"{what}: {worst[0]}", worst[1], worst[2], DIFFERS)
        within = f"{what} on other hardware, to {self.tolerance:.0%}"
        return Check(stage.name, within, md5, got, WITHIN)

    def _recorded_hardware(self, stage: Locked) -> str:
        """Return the hardware class of the recorded run; '' if it is unknown.

        It is read from this machine's record of the stage, else from the run's provenance.
        """
        record = costs.find(self.revision.root, stage)
        record = record or self.revision.provenance()
        return str(record.get("hardware", ""))


def portable(stage: Locked) -> bool:
    """Return whether a stage ran in portable mode, whose bits do not depend on the processor."""
    values = stage.params.get(str(paths.PARAMS), {})
    train = values.get("train")
    return bool(values.get("train.portable") or (isinstance(train, dict) and train.get("portable")))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def disagreement(
    expected: Any, got: Any, tolerance: float, name: str = ""
) -> tuple[str, str, str] | None:
    """Return the first value that differs, as (name, expected, got); None if all agree.

    Numbers may differ by `tolerance` of the larger one plus `FLOOR`.

    >>> disagreement({"fd": 100.0, "n": 4}, {"fd": 101.0, "n": 5}, tolerance=0.05)
    ('n', '4', '5')
    """
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in sorted(expected.keys() | got.keys()):
            path = f"{name}.{key}".lstrip(".")
            if worst := disagreement(expected.get(key), got.get(key), tolerance, path):
                return worst
        return None
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in (expected, got)):
        agree = abs(expected - got) <= tolerance * max(abs(expected), abs(got)) + FLOOR
    else:
        agree = expected == got
    return None if agree else (name, str(expected), str(got))
