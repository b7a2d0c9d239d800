"""What stages cost on this machine: seconds and hardware, recorded in .gear/costs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gear import paths
from gear.core.hardware import hardware_class
from gear.runs.revision import PIPELINE, content_md5


@contextmanager
def recorded(stage: str) -> Iterator[None]:
    """Record what the body costs as the cost of a stage."""
    started = time.monotonic()
    try:
        yield
    except SystemExit:  # stopped by a signal with its state saved: the next run goes on from there
        keep(stage, time.monotonic() - started, finished=False)
        raise
    keep(stage, time.monotonic() - started, finished=True)


def key(outs: dict[str, str]) -> str:
    """The name of a record: outputs by path with their hashes, as dvc.lock has them."""
    return hashlib.sha256(json.dumps(sorted(outs.items())).encode()).hexdigest()[:24]


def find(root: Path, stage: str, outs: dict[str, str]) -> dict[str, Any] | None:
    """The record `{"seconds": …, "hardware": …}` of a stage's outputs, or None."""
    try:
        return json.loads((root / paths.COSTS / f"{stage}-{key(outs)}.json").read_text())
    except (OSError, ValueError):
        return None


def keep(stage: str, seconds: float, *, finished: bool) -> None:
    """Record a stage that ended after `seconds`; of one that was stopped and will resume, keep the seconds for its next run.

    The time of a killed process is not counted. Only the lead rank of a distributed run records. Never fails a stage.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    folder = _home() / paths.COSTS
    try:
        pending = folder / f"{stage}-{_settings()}.stopped"
        before = float(pending.read_text()) if pending.exists() else 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if not finished:
            _write(pending, f"{before + seconds:.2f}")
            return
        outs = {path: content_md5(Path(path)) for path in declared_outs(stage)}
        record = {
            "stage": stage,
            "seconds": round(before + seconds, 2),
            "hardware": hardware_class(),
        }
        _write(folder / f"{stage}-{key(outs)}.json", json.dumps(record) + "\n")
        pending.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # no record: no harm
        return


def declared_outs(stage: str) -> list[str]:
    """The paths that dvc.yaml of the working directory says a stage makes."""
    return outs_of(yaml.safe_load(Path(PIPELINE).read_text())["stages"][stage])


def outs_of(stage: dict[str, Any]) -> list[str]:
    """Paths of the outs, metrics and plots of a stage of dvc.yaml; each is a name, or a name with options."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind) or []]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _home() -> Path:
    """The checkout that keeps the records: DVC names it to a stage, also where an experiment has a folder of its own."""
    return (
        Path(os.environ["DVC_ROOT"])
        if "DVC_STAGE" in os.environ and os.environ.get("DVC_ROOT")
        else Path()
    )


def _settings() -> str:
    return hashlib.sha256(paths.PARAMS.read_bytes()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, path)
