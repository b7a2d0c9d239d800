"""Log trainings to experiment trackers: DVCLive, TensorBoard, W&B and MLflow.

No stage depends on these logs. A tracker logs each step once, however often the training is killed
and resumed: files are rewritten from the rows so far, and a server is asked for the steps that it
has.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gear.core.files import replace_file
from gear.core.text import one_line

PROJECT = "gear"  # name of the project at W&B and of the experiment at MLflow
MOST_PARAMS = 100  # in a batch of MLflow
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's errors of a lost run
WANDB_WAITS: dict[str, Any] = {"init_timeout": 30, "finish_timeout": 60}  # seconds
SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}

Row = Mapping[str, float]


class Tracker(Protocol):
    """Interface of an experiment tracker."""

    def log(self, step: int, values: Row) -> None:
        """Log the values of a step, unless it is already logged. Steps must increase."""

    def close(self, finished: bool) -> None:
        """Write pending values and close; `finished` if the training took all its steps."""


@dataclass(frozen=True)
class TrackedRun:
    """Description of a training for trackers.

    name: name to show, such as `joint gear tiny`. run: fingerprint of the training, its unique id.
    params: settings by section. tags: other facts, such as hashes of the inputs.
    live: folder of DVCLive's files. state: folder of its states. home: folder of other trackers.
    """

    stage: str
    name: str
    run: str
    params: dict[str, Any]
    tags: dict[str, str]
    live: Path
    state: Path
    home: Path


class Trackers:
    """Trackers of a training; one that fails is dropped with a warning."""

    def __init__(self, names: Iterable[str], run: TrackedRun, earlier: Iterable[Row]) -> None:
        """Open trackers and log the rows of earlier steps."""
        self.run = run
        self.open: dict[str, Tracker] = {}
        rows = list(earlier)
        for name in names:
            try:
                self.open[name] = KINDS[name](run)
                for row in rows:
                    self._log(name, row)
            except Exception as error:
                self._leave_out(name, error)

    def log(self, row: Row) -> None:
        """Log a row, which has a `step`."""
        for name in [*self.open]:
            try:
                self._log(name, row)
            except Exception as error:
                self._leave_out(name, error)

    def close(self, finished: bool) -> None:
        """Close all trackers; `finished` if the training took all its steps."""
        for name in [*self.open]:
            try:
                self.open[name].close(finished)
            except Exception as error:
                self._leave_out(name, error)

    def _log(self, name: str, row: Row) -> None:
        self.open[name].log(int(row["step"]), {k: v for k, v in row.items() if k != "step"})

    def _leave_out(self, name: str, error: Exception) -> None:
        """Drop a tracker with a warning: a lost server or a full disk must not end a training."""
        self.open.pop(name, None)
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        print(f"{self.run.stage}: {name} is left out from here on ({reason})", file=sys.stderr)


class DvcLive:
    """Writes files for `dvc plots`, `dvc metrics` and the VS Code extension, from scratch."""

    def __init__(self, run: TrackedRun) -> None:
        from dvclive import Live

        self.live = Live(str(run.live), save_dvc_exp=False, dvcyaml=None, report=None)

    def log(self, step: int, values: Row) -> None:
        """Log the values of a step."""
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def close(self, finished: bool) -> None:
        """Write the summary."""
        self.live.end()


class TensorBoard:
    """Writes an event file of the whole run, and empties those of earlier processes.

    A running TensorBoard stops at a file that is deleted, but continues after an empty one.
    """

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # other trainings of the same identity have other folders of states: shorter ones, or --from
        _, dash, rest = run.state.name.partition("-")
        home, end = run.home / "tensorboard", f"-{run.run[:8]}{dash}{rest}"
        # the name may change with the number of steps
        earlier = sorted(home.glob(f"*{glob.escape(end)}"))
        folder = earlier[0] if earlier else home / f"{run.name.replace(' ', '-')}{end}"
        folder.mkdir(parents=True, exist_ok=True)
        before = [*folder.glob("events.out.tfevents.*")]
        # makes a server that has read the old files drop their points
        self.writer = SummaryWriter(str(folder), purge_step=0)
        for file in before:
            os.truncate(file, 0)
        about = json.dumps({"params": run.params, **run.tags}, indent=2)
        self.writer.add_text("settings", "\n".join(f"    {line}" for line in about.splitlines()))

    def log(self, step: int, values: Row) -> None:
        """Log the values of a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, finished: bool) -> None:
        """Close the event file."""
        self.writer.close()


class Wandb:
    """Logs to a W&B run: online if there is an API key, else offline, for `wandb sync`.

    An online run continues after its last step; an offline run is written from scratch.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        run.home.mkdir(parents=True, exist_ok=True)
        identity = self._identity(run)
        before = [*run.home.glob(f"wandb/offline-run-*-{identity}")]
        has_key = "WANDB_IDENTITY_TOKEN_FILE" in os.environ or wandb.api.api_key
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=identity,
            name=run.name,
            resume="allow" if mode == "online" else None,  # offline it is ignored, with a warning
            mode=mode,  # type: ignore[arg-type]
            dir=str(run.home),
            config={**run.params, **run.tags},
            settings=wandb.Settings(silent=True, console="off", **WANDB_WAITS),
        )
        self.first = 0 if self.run.offline else self.run.step
        if self.run.offline:
            for folder in before:
                shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _identity(run: TrackedRun) -> str:
        """Return W&B's id of this training, the same after a resume."""
        file = run.state / "wandb-run"
        if not file.exists():
            replace_file(file, f"{run.stage}-{run.run[:8]}-{secrets.token_hex(3)}".encode())
        return file.read_text()

    def log(self, step: int, values: Row) -> None:
        """Log the values of a step, unless the server has them."""
        if step >= self.first:
            self.run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        """Sync what is not synced, and end the run."""
        self.run.finish(exit_code=0 if finished else 1)


class Mlflow:
    """Logs to an MLflow run, at MLFLOW_TRACKING_URI or in a SQLite database in the work folder."""

    def __init__(self, run: TrackedRun) -> None:
        for name, value in SHORT_WAITS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        run.home.mkdir(parents=True, exist_ok=True)
        local = f"sqlite:///{run.home.resolve() / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or local)
        self.run_id = self._known(run) or self._create(run)
        self.last = {
            name: max(point.step for point in self.client.get_metric_history(self.run_id, name))
            for name in self.client.get_run(self.run_id).data.metrics
        }

    def _known(self, run: TrackedRun) -> str | None:
        """Return the id of this training's run; None if there is none, or it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            run_id = (run.state / "mlflow-run").read_text()
            self.client.update_run(run_id, status="RUNNING")
        except FileNotFoundError:
            return None
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            return None
        return run_id

    def _create(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        created = self.client.create_run(
            experiment.experiment_id if experiment else self.client.create_experiment(name),
            run_name=run.name,
            tags=run.tags,
        )
        run_id = str(created.info.run_id)
        replace_file(run.state / "mlflow-run", run_id.encode())
        params = [
            Param(f"{section}.{key}", str(value))
            for section, values in run.params.items()
            for key, value in values.items()
        ]
        for start in range(0, len(params), MOST_PARAMS):
            self.client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
        return run_id

    def log(self, step: int, values: Row) -> None:
        """Log the values of a step that the run does not have."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {name: value for name, value in values.items() if step > self.last.get(name, -1)}
        points = [Metric(name, value, now, step) for name, value in new.items()]
        if points:
            self.client.log_batch(self.run_id, metrics=points)

    def close(self, finished: bool) -> None:
        """Mark the run as ended; a resumed training marks it as running again."""
        self.client.set_terminated(self.run_id, status="FINISHED" if finished else "KILLED")


KINDS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "dvclive": DvcLive,
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}
