"""`gear monitor`: measure the newest checkpoint of a training in progress, or of one that ended, beside it and not in it.

One line a checkpoint goes to `.gear/monitor/<stage>-<run>.jsonl`. Of a training's work folder nothing is locked and nothing written but
the request to stop. A checkpoint measured already is not measured again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gear import paths
from gear.commands.arguments import positive
from gear.core.errors import InputError, StageFailed
from gear.core.files import replace_file, replace_folder
from gear.core.memory import keep_freed_memory
from gear.evaluation.metric import Metric
from gear.params import Config, load
from gear.runs.find_checkpoints import Checkpoint, newest, snapshot

NICE = 19  # training goes first
TRIES = 20  # states that vanish, one after the other, before giving up


class Unhealthy(StageFailed):
    """The codebook's health is under its thresholds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear monitor`."""
    parser.add_argument(
        "--checkout",
        type=Path,
        default=Path(),
        help="where it trains, temporary experiments included (default: here)",
    )
    parser.add_argument(
        "--samples",
        type=positive,
        default=512,
        help="images drawn for FD and coverage (default 512)",
    )
    parser.add_argument(
        "--images",
        type=positive,
        default=2048,
        help="training images whose tokens are counted, at most (default 2048)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument(
        "--stop",
        action="store_true",
        help="ask training to stop where health.min_usage or health.min_perplexity is broken",
    )
    parser.add_argument("--result", type=Path, help="also write what was found to this JSON file")


def run(arguments: argparse.Namespace) -> str:
    """Measure what is new; return a sentence."""
    keep_freed_memory()
    return monitor(
        arguments.checkout,
        samples=arguments.samples,
        images=arguments.images,
        device=arguments.device,
        stop=arguments.stop,
        result=arguments.result,
    )


def monitor(
    checkout: Path, *, samples: int, images: int, device: str, stop: bool, result: Path | None
) -> str:
    """Measure what is new in `checkout`; returns a sentence. `result`: a file for programs, {new, message, broken, history}.

    Raises `Unhealthy` after the line is written (and, with `stop`, training asked to stop) where thresholds are broken.
    """
    if not (checkout / paths.PARAMS).is_file():
        raise InputError(f"{checkout}: no {paths.PARAMS} here: name a checkout")
    os.nice(NICE)
    store = checkout / paths.WORK / "monitor"
    store.mkdir(parents=True, exist_ok=True)
    answer: dict[str, Any] = {"new": False, "broken": None, "history": None}
    with _alone(store) as alone:
        if alone:
            answer |= _measure_newest(checkout, store, samples, images, device, stop)
        else:
            answer["message"] = "another monitor is measuring here: nothing done"
    if result is not None:
        replace_file(result, json.dumps(answer).encode())
    if answer["broken"]:
        raise Unhealthy(answer["message"])
    return str(answer["message"])


@contextmanager
def _alone(store: Path) -> Iterator[bool]:
    with (store / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _measure_newest(
    checkout: Path, store: Path, samples: int, images: int, device: str, stop: bool
) -> dict[str, Any]:
    draft = store / "state.partial"
    for _ in range(TRIES):
        there = newest(checkout)
        unseen = [checkpoint for checkpoint in there if not _seen(store, checkpoint)]
        if not unseen:
            return {
                "message": f"nothing new: {there[0].label} is measured"
                if there
                else "no training has saved anything here yet"
            }
        if unseen[0].step is None or snapshot(unseen[0], draft):
            break
    else:
        raise StageFailed(
            f"{checkout}: states vanish faster than they are read: set host.checkpoint_every higher"
        )
    try:
        return _measure(checkout, store, unseen[0], draft, samples, images, device, stop)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _measure(
    checkout: Path,
    store: Path,
    found: Checkpoint,
    draft: Path,
    samples: int,
    images: int,
    device: str,
    stop: bool,
) -> dict[str, Any]:
    from gear.runs import measurement

    started, where = time.monotonic(), measurement.named_device(device)
    if found.step is None:
        models = measurement.models_of_stage(found.folder, load(checkout / paths.PARAMS))
        run = _run_of(store, found.stage, models.rows) or found.run
    else:
        models, run = measurement.models_of_state(found.stage, found.root, draft), found.run
    metrics = measurement.measure(models, found.root, samples=samples, images=images, device=where)
    under = _under(models.config, metrics, models.window)
    shut = (
        found.step is not None and found.step < models.config.health.after_step
    )  # the gate opens when training's own does
    broken = None if shut else under
    good, asked = store / f"{found.stage}-{run}-good", False
    message = f"{found.label}: " + ", ".join(
        f"{name} {metric.value:.5g}" for name, metric in metrics.items()
    )
    if broken:
        message = f"{found.label}: codebook {broken}" + (
            f"; the last good models are in {good}" if good.is_dir() else ""
        )
        asked = stop and found.step is not None and _ask_to_stop(found, message)
        message += "; training is asked to stop" if asked else ""
    elif found.step is None:
        shutil.rmtree(good, ignore_errors=True)  # the finished ones are as good, and newer
    elif under is None:
        replace_folder(good, lambda folder: measurement.keep(models, folder, found.root))
    record = {
        "stage": found.stage,
        "run": run,
        "root": str(found.root),
        "step": found.step,
        "weights": found.run if found.step is None else None,
        "saved": found.saved,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - started, 1),
        "metrics": {name: metric.record() for name, metric in metrics.items()},
        "window": models.window,
        "curve": {"rows": len(models.rows), "sha256": _curve(models.rows)},
        "broken": broken,
        "asked_to_stop": asked,
    }
    history = store / f"{found.stage}-{run}.jsonl"
    replace_file(
        history, "".join(json.dumps(line) + "\n" for line in [*_lines(history), record]).encode()
    )
    return {"new": True, "message": message, "broken": broken, "history": str(history)}


def _under(config: Config, metrics: dict[str, Metric], window: dict[str, float]) -> str | None:
    """The health threshold that is broken, in words; by the averaged weights, or by the live ones, behind which averages lag."""
    from gear.training.codebook_health import verdict

    averaged = {f"codebook/{name}": metrics[name].value for name in ("usage", "perplexity")}
    found = verdict(config.health, averaged, config.tokenizer.codes)
    if (
        found is None
        and window
        and (live := verdict(config.health, window, config.tokenizer.codes))
    ):
        found = f"{live} in training's last window"
    return found


def _ask_to_stop(found: Checkpoint, reason: str) -> bool:
    """Whether the run is still there to be asked; the training loop looks for this file."""
    draft = found.folder.parent / "stop.partial"
    try:
        draft.write_text(reason)
        os.replace(draft, draft.with_suffix(""))
    except FileNotFoundError:
        return False
    return True


def _lines(history: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    )


def _seen(store: Path, found: Checkpoint) -> bool:
    if found.step is None:
        return any(
            line["weights"] == found.run
            for file in store.glob(f"{found.stage}-*.jsonl")
            for line in _lines(file)
        )
    return any(
        (line["step"], line["saved"]) == (found.step, found.saved)
        for line in _lines(store / f"{found.stage}-{found.run}.jsonl")
    )


def _run_of(store: Path, stage: str, rows: list[dict[str, float]]) -> str | None:
    """The run that finished models come from: the one whose curve, as far as it was seen, is the beginning of theirs."""
    for file in sorted(store.glob(f"{stage}-*.jsonl")):
        seen = _lines(file)[-1]
        count = seen["curve"]["rows"]
        if count and seen["step"] is not None and seen["curve"]["sha256"] == _curve(rows[:count]):
            return str(seen["run"])
    return None


def _curve(rows: list[dict[str, float]]) -> str:
    return hashlib.sha256("".join(json.dumps(row) + "\n" for row in rows).encode()).hexdigest()
