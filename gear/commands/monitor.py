"""`gear monitor`: measure the newest checkpoint of a training, in progress or finished.

One line a checkpoint goes to `.gear/monitor/<stage>-<run>.jsonl`; a checkpoint is measured once.
A training's state is neither locked nor changed, except by the request to stop.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gear import paths
from gear.commands.arguments import positive, samples
from gear.core.errors import InputError, StageFailed
from gear.core.files import (
    LockedError,
    exclusive_lock,
    read_json_lines,
    replace_file,
    replace_folder,
    require_writable,
)
from gear.core.memory import keep_freed_memory
from gear.runs.find_checkpoints import Checkpoint, newest, snapshot
from gear.training.states import LOCK

if TYPE_CHECKING:
    from gear.commands.checkpoint_metrics import Models
    from gear.evaluation.metric_protocol import Metric

NICE = 19  # lowest CPU priority
TRIES = 20  # attempts to read a state before another replaces it

Training = tuple[bytes, int]  # its process as the lock file names it, and when it took the lock


class Unhealthy(StageFailed):
    """Raised if codebook health is below a threshold."""


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
        type=samples,
        default=512,
        help="images drawn for FD and coverage, at least 10 (default 512)",
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
    """Measure the newest checkpoint that was not measured yet; return the result as text.

    `--result` also writes {new, message, broken, history} to a JSON file.

    Raises:
        Unhealthy: if a health threshold is broken, after the result is written.
    """
    checkout: Path = arguments.checkout
    if not (checkout / paths.PARAMS).is_file():
        raise InputError(f"{checkout}: no {paths.PARAMS} here: name a checkout")
    if arguments.result is not None:
        require_writable(arguments.result, "--result")
    os.nice(NICE)
    keep_freed_memory()
    monitor = Monitor(
        checkout / paths.WORK / "monitor",
        arguments.samples,
        arguments.images,
        arguments.device,
        arguments.stop,
    )
    result: dict[str, Any] = {"new": False, "broken": None, "history": None}
    try:
        with exclusive_lock(monitor.store / "lock", "another monitor is measuring here"):
            result |= monitor.measure_newest(checkout)
    except LockedError as error:
        result["message"] = f"{error}: nothing done"
    if arguments.result is not None:
        replace_file(arguments.result, json.dumps(result).encode())
    if result["broken"]:
        raise Unhealthy(result["message"])
    return str(result["message"])


@dataclass(frozen=True)
class Monitor:
    """Measures checkpoints and keeps the results in the folder `store`."""

    store: Path
    samples: int
    images: int
    device: str
    stop: bool  # ask an unhealthy training to stop

    def measure_newest(self, checkout: Path) -> dict[str, Any]:
        """Measure the newest checkpoint that was not measured yet.

        Returns:
            `message`, and of a new checkpoint `new`, `broken` and `history`.
        """
        draft = self.store / "state.partial"
        for _ in range(TRIES):
            checkpoints = newest(checkout)
            unseen = [checkpoint for checkpoint in checkpoints if not self._seen(checkpoint)]
            if not checkpoints:
                return {"message": "no training has saved anything here yet"}
            if not unseen:
                return {"message": f"nothing new: {checkpoints[0].label} is measured"}
            training = _training(unseen[0])
            if unseen[0].step is None or snapshot(unseen[0], draft):
                break
        else:
            raise StageFailed(
                f"{checkout}: states vanish faster than they are read: "
                "set host.checkpoint_every higher"
            )
        try:
            return self._measure(unseen[0], draft, training)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _measure(
        self, checkpoint: Checkpoint, draft: Path, training: Training | None
    ) -> dict[str, Any]:
        """Measure a checkpoint; `training`: what ran when it was read."""
        from gear.commands import checkpoint_metrics

        started = time.monotonic()
        device = checkpoint_metrics.named_device(self.device)
        if checkpoint.step is None:
            models = checkpoint_metrics.models_of_stage(checkpoint.folder, checkpoint.root)
        else:
            models = checkpoint_metrics.models_of_state(checkpoint.stage, checkpoint.root, draft)
        metrics = checkpoint_metrics.measure(
            models, checkpoint.root, samples=self.samples, images=self.images, device=device
        )
        unhealthy = _unhealthy(models, metrics)
        good = self.store / f"{checkpoint.stage}-{checkpoint.run}-good"
        values = ", ".join(f"{name} {metric.value:.5g}" for name, metric in metrics.items())
        message = f"{checkpoint.label}: {values}"
        broken = None
        asked = False
        if unhealthy and _gate_is_open(checkpoint, models):
            broken = unhealthy
            message = f"{checkpoint.label}: codebook {broken}"
            if good.is_dir():
                message += f"; the last good models are in {good}"
            if self.stop and checkpoint.step is not None:
                asked = _ask_to_stop(checkpoint, training, message)
            if asked:
                message += "; training is asked to stop"
        elif checkpoint.step is None:
            shutil.rmtree(good, ignore_errors=True)  # the finished models replace them
        elif not unhealthy:
            replace_folder(
                good, lambda folder: checkpoint_metrics.save(models, folder, checkpoint.root)
            )
        record = {
            "stage": checkpoint.stage,
            "run": checkpoint.run,
            "root": str(checkpoint.root),
            "step": checkpoint.step,
            "saved": checkpoint.saved,
            "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - started, 1),
            "metrics": {name: metric.record() for name, metric in metrics.items()},
            "window": models.window,
            "broken": broken,
            "asked_to_stop": asked,
        }
        history = self._history(checkpoint)
        lines = [json.dumps(line) + "\n" for line in [*_lines(history), record]]
        replace_file(history, "".join(lines).encode())
        return {"new": True, "message": message, "broken": broken, "history": str(history)}

    def _history(self, checkpoint: Checkpoint) -> Path:
        return self.store / f"{checkpoint.stage}-{checkpoint.run}.jsonl"

    def _seen(self, checkpoint: Checkpoint) -> bool:
        return any(
            (line["step"], line["saved"]) == (checkpoint.step, checkpoint.saved)
            for line in _lines(self._history(checkpoint))
        )


def _lines(history: Path) -> list[dict[str, Any]]:
    return read_json_lines(history) if history.exists() else []


def _gate_is_open(checkpoint: Checkpoint, models: Models) -> bool:
    """Return whether health is checked at this step: from `health.after_step` on."""
    return checkpoint.step is None or checkpoint.step >= models.config.health.after_step


def _unhealthy(models: Models, metrics: dict[str, Metric]) -> str | None:
    """Return a message on a health threshold that is not met; None if all are.

    The averaged weights are checked, then the live ones in training's last window: averages lag.
    """
    from gear.training.codebook_health import below_limit

    health = models.config.health
    codes = models.config.tokenizer.codes
    averaged = {f"codebook/{name}": metrics[name].value for name in ("usage", "perplexity")}
    if broken := below_limit(health, averaged, codes):
        return broken
    live = below_limit(health, models.window, codes) if models.window else None
    return f"{live} in training's last window" if live else None


def _training(checkpoint: Checkpoint) -> Training | None:
    """Return which training locked the folder of a state last; None if none did.

    Only the lock file is read, since the training may run in another container.
    """
    lock = checkpoint.folder.parent / LOCK
    try:
        return lock.read_bytes(), lock.stat().st_mtime_ns
    except OSError:
        return None


def _ask_to_stop(checkpoint: Checkpoint, training: Training | None, reason: str) -> bool:
    """Write a stop request for the training loop; return whether it was written.

    Measuring takes minutes. A training that was started in the same folder meanwhile is not asked.
    """
    if training is None or _training(checkpoint) != training:
        return False
    replace_file(checkpoint.folder.parent / "stop", reason.encode())
    return True
