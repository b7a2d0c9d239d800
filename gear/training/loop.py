"""The training loop: data by step, logs, codebook health, checkpoints, signals."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
import torch.distributed as dist

from gear.core.errors import InputError, StageFailed
from gear.core.exit_codes import discard_closed_terminals
from gear.nn.dropout import drawn_by_image
from gear.process import REPEAT
from gear.training.autoencoder import Losses
from gear.training.batches import Batch, BatchLoader, prefetch
from gear.training.codebook_health import CodebookHealth, Collapse
from gear.training.distributed import DistributedContext
from gear.training.ema import EMA
from gear.training.engine import NonFinite, set_lr
from gear.training.reporter import Reporter
from gear.training.run import TrainingRun
from gear.training.states import read_description
from gear.training.step_meter import StepMeter, peak_flops

Row = dict[str, float]


class TrainingStep(Protocol):
    """Interface of a training step, such as `AutoencoderStep`."""

    @property
    def engines(self) -> dict[str, Any]:
        """The engines by name."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs besides weights and optimizers."""

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Load a saved `state`."""

    def measure_batch(self, micro_batches: list[Batch[Any]], step: int) -> None:
        """Measure what losses need of a whole batch before its gradients accumulate."""

    def __call__(self, batch: Batch[Any], step: int) -> tuple[Losses, torch.Tensor]:
        """Train on a batch or a part of it. Returns detached scalar losses and the hard indices.

        Indices are (B, L) int64. Weights change with the last part of a batch.
        """


@dataclass(frozen=True)
class EvalHook:
    """Metrics of the averaged weights, measured every `every` steps of a training.

    measure: Returns metrics by name. Called on all ranks, which may share the work.
    protocol: How the metrics are measured; saved with the curve.
    show: Called with the step after each measurement, for example to save samples.
    """

    every: int
    measure: Callable[[dict[str, EMA]], Row]
    protocol: dict[str, Any] = field(default_factory=dict)
    show: Callable[[int], None] | None = None


class Stopped(SystemExit):
    """Raised when a signal stops training, after its state was saved."""


class StopRequested(StageFailed):
    """Raised when a file `stop` in the states' folder stops training, after its state was saved."""


INTERRUPTED = b"saving after this step; Ctrl-C again ends at once, without saving\n"
REQUESTED = 128  # code of a stop request; signal numbers are smaller


class Training:
    """A training loop, and its state besides the weights.

    rows: the logged curve (step, losses, codebook, metrics; no times), as in a longer run.
    last_row: losses and codebook of the last step that was logged, measured or saved.
    logged: the rows of the curve with speed, memory and the like, for logs only.
    """

    def __init__(
        self,
        run: TrainingRun,
        step: TrainingStep,
        *,
        averages: dict[str, EMA],
        codes: int,
        hook: EvalHook | None = None,
    ) -> None:
        """Prepare the loop.

        Args:
            run: The training's settings, ranks and state.
            step: Trains one step.
            averages: Moving averages of weights, updated after each step.
            codes: Codebook size.
            hook: Metrics of the averages, also measured before the first step and at the end.
        """
        self.run, self.step, self.averages, self.hook = run, step, averages, hook
        self.health = CodebookHealth(run.settings.health, codes, run.device)
        self.rows: list[Row] = []
        self.last_row: Row = {}
        self.logged: list[Row] = []
        train, host = run.settings.train, run.settings.host
        self.meter = StepMeter(
            run.device,
            None if host.compile else peak_flops(run.device, bf16=train.bf16),
            recomputes=host.activation_checkpointing,
        )

    def fit(self, loader: BatchLoader[Any]) -> list[Row]:
        """Train to the last step, from the saved state if there is one. Returns the curve.

        Raises:
            InputError: if the saved state is damaged, past the last step or of other models.
            Collapse: if the codebook collapsed.
            StageFailed: if a loss or gradient was not finite.
            StopRequested: if a stop was requested; the state was saved.
            Stopped: on a signal, or if the reader of stdout went away (SIGPIPE); the state was
                saved. Exit code 128 + signal.
        """
        run, steps = self.run, self.run.settings.steps
        first = self._resume()
        caught = _catch_signals()
        reporter = Reporter(
            run.stage,
            first=first,
            steps=steps,
            batch=run.settings.batch,
            log=run.log,
            trackers=run.settings.host.trackers,
            tracked=run.tracked,
            earlier=self.logged,
            enabled=run.context.is_rank_zero,
        )
        if self.hook and first == 0:
            self.rows.append({"step": 0, **self._measure(0)})
            self.logged.append(reporter.row(self.rows[-1], self.meter.read(self.step.engines)))
        curve = self.rows
        try:
            for number, batch in self.meter.waiting(prefetch(loader, first, steps)):
                with self.meter.step():
                    losses = self._train_step(batch, number)
                self.meter.note_losses(losses)
                curve = self._log(number + 1, losses, reporter)
                self._check_health(number + 1)
                gone = signal.SIGPIPE if reporter.reader_gone else 0
                self._save_or_stop(number + 1, caught["signal"] or gone)
        finally:
            reporter.close()
            if run.context.size == 1:  # of several, one may have failed, and finishing needs all
                run.checkpoints.finish_save()
        _release_signals()
        if first == steps > 0:
            curve = self._ended_curve()
        return curve

    def _train_step(self, batch: Batch[Any], number: int) -> Losses:
        run = self.run
        torch.manual_seed(_step_seed(run.settings.run.seed, number, run.context.rank))
        for engine in self.step.engines.values():
            set_lr(engine, number, run.settings.train.warmup)
        try:
            micro_batches = batch.micro_batches(run.accumulation)
            if len(micro_batches) > 1:
                self.step.measure_batch(micro_batches, number)
            done = []
            for micro_batch in micro_batches:
                with drawn_by_image(micro_batch.seeds):
                    done.append(self.step(micro_batch, number))
        except NonFinite as error:
            file = run.checkpoints.note(
                f"nonfinite-step-{number}-rank-{run.context.rank}.json",
                {"step": number, "loss": str(error), "images": error.keys},
            )
            raise StageFailed(
                f"{run.stage} step {number}: {error}; its images are named in {file}"
            ) from None
        for average in self.averages.values():
            average.update()
        self.health.count(torch.cat([indices for _, indices in done]))
        return {
            name: torch.stack([losses[name] for losses, _ in done]).mean(0) for name in done[0][0]
        }

    def _log(self, done: int, losses: Losses, reporter: Reporter) -> list[Row]:
        """Log a step if it is due. Returns the curve of a training that ends with this step."""
        host, last = self.run.settings.host, done == self.run.settings.steps
        if done % self.run.settings.health.window == 0:
            self.health.close_window()
        logging = done % host.log_every == 0
        measuring = self.hook is not None and done % self.hook.every == 0
        saving = done % host.checkpoint_every == 0
        if logging or measuring or saving or last:
            with self.meter.phase("compute"):  # waits for the GPU
                means = _mean_over_ranks(losses, self.run.context)
            self.last_row = {"step": done, **means, **self.health.latest}
        if not (logging or measuring or last):
            return self.rows
        with self.meter.phase("measure"):
            measured = self._measure(done) if measuring or last else {}
        row = {**self.last_row, **measured}
        logged = reporter.row(row, self.meter.read(self.step.engines))
        curve = [*self.rows, row]
        if logging or measuring:  # a row that only marks the end is not in a longer run
            self.rows.append(row if measuring else self.last_row)
            self.logged.append(logged)
        return curve

    def _ended_curve(self) -> list[Row]:
        """Return the curve of a training whose saved state is at its last step."""
        end = self.run.settings.steps
        row = self.last_row if self.last_row.get("step") == end else {"step": end}
        return [r for r in self.rows if r["step"] != end] + [{**row, **self._measure(end)}]

    def _check_health(self, done: int) -> None:
        try:
            self.health.check(done)
        except Collapse as error:
            raise Collapse(f"{error}; {self._where_next()}") from None

    def _save_or_stop(self, done: int, caught: int) -> None:
        """Save the state if it is due; stop if a signal or a request says so.

        A save in progress is finished once all ranks have written, at the latest at the end.
        """
        run, checkpoints, host = self.run, self.run.checkpoints, self.run.settings.host
        window_ends = done % run.settings.health.window == 0
        looking = run.context.is_rank_zero and (done % host.log_every == 0 or window_ends)
        requested = REQUESTED if looking and checkpoints.stop_requested() else 0
        with self.meter.phase("compute"):  # several ranks wait for the GPU
            stopping, writing = _largest_of_ranks(
                [caught or requested, int(checkpoints.writing())], run.context
            )
        if stopping == REQUESTED:
            self._stop_as_requested(done)
        due = done % host.checkpoint_every == 0 or done == run.settings.steps
        if stopping or due:
            with self.meter.phase("save"):
                checkpoints.begin_save(self.step.engines, self._state(done))
        if window_ends and self.health.broken() is None:
            checkpoints.mark_healthy()
        if stopping or done == run.settings.steps or not (due or writing):
            with self.meter.phase("save"):
                checkpoints.finish_save()
        if stopping:
            if run.context.is_rank_zero:
                print(
                    f"{run.stage}: stopped by signal {stopping} at step {done}; "
                    "state saved, the same command resumes",
                    file=sys.stderr,
                )
            raise Stopped(128 + stopping)

    def _stop_as_requested(self, done: int) -> NoReturn:
        reason = self.run.checkpoints.stop_reason()
        folder = self.run.checkpoints.save_stopped(self.step.engines, self._state(done))
        raise StopRequested(
            f"asked to stop at step {done}: {reason}; state saved in {folder}; {self._where_next()}"
        )

    def _where_next(self) -> str:
        """Roll back to the last healthy state. Returns a hint on how to continue from it."""
        state = self.run.checkpoints.roll_back()
        if state is None:
            return (
                "the same settings would start from the beginning and end here again: change them"
            )
        return (
            f"the same settings would resume from {state} and may well end here again: change them "
            f"and go on from it with `gear {self.run.stage} --from {state.parent}`"
        )

    def _measure(self, done: int) -> Row:
        if self.hook is None:
            return {}
        began = time.monotonic()
        measured = self.hook.measure(self.averages)
        if self.hook.show is not None:
            self.hook.show(done)
        slowest = self.run.checkpoints.measure_seconds or 0.0
        taken = round(time.monotonic() - began, 1)
        self.run.checkpoints.measure_seconds = max(slowest, taken)
        return measured

    def _state(self, done: int) -> dict[str, Any]:
        return {
            "step": done,
            "averages": {name: average.weights for name, average in self.averages.items()},
            "of_step": self.step.state(),
            "counts": self.health.window_counts(),
            "latest": self.health.latest,
            "rows": self.rows,
            "last_row": self.last_row,
            "logged": self.logged,
        }

    def _resume(self) -> int:
        """Restore the saved state, if any. Returns the first step to train."""
        run, checkpoints, steps = self.run, self.run.checkpoints, self.run.settings.steps
        state = checkpoints.load(self.step.engines, run.start_from)
        if state is None:
            return 0
        origin = run.start_from or checkpoints.folder
        if state["step"] > steps:
            raise InputError(
                f"{origin} is at step {state['step']}, past the {steps} asked for: set "
                f"{run.stage}.steps to more, or start from another state"
            )
        try:
            self._restore(state)
        except (KeyError, RuntimeError) as error:
            raise InputError(
                f"{origin}: does not fit these settings ({error}): start from another state, or "
                "delete it to start anew"
            ) from None
        if run.start_from is not None:
            checkpoints.forget()
        description = read_description(origin)
        checkpoints.started_from = (
            description if run.start_from is not None else description.get("started_from")
        )
        if run.context.is_rank_zero:
            print(f"resuming after step {state['step']} of {origin}", file=sys.stderr)
        return int(state["step"])

    def _restore(self, state: dict[str, Any]) -> None:
        for name, average in self.averages.items():
            average.load(state["averages"][name])
        self.step.restore(state["of_step"])
        self.health.restore(state["counts"], mine=self.run.context.is_rank_zero)
        self.health.latest = state["latest"]
        self.rows.extend(state["rows"])
        self.last_row = state["last_row"]
        self.logged.extend(state.get("logged", state["rows"]))


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step and rank, so that a resume needs no saved RNG state."""
    sequence = np.random.SeedSequence([seed, step, rank])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _catch_signals() -> dict[str, int]:
    """Record SIGTERM, SIGINT and SIGHUP instead of exiting. Returns {"signal": the last, or 0}.

    The loop saves and stops after the current step. A second Ctrl-C ends the process at once. A
    closed terminal (SIGHUP) is not written to any more; under nohup SIGHUP stays ignored.
    """
    caught = {"signal": 0}
    first = time.monotonic()

    def remember(signal_number: int, _frame: Any) -> None:
        nonlocal first
        now = time.monotonic()
        if signal_number == caught["signal"] == signal.SIGINT and now - first > REPEAT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        if not caught["signal"]:
            first = now
            if signal_number == signal.SIGINT and os.environ.get("RANK", "0") == "0":
                os.write(2, INTERRUPTED)  # print may have been interrupted, and cannot be reentered
        if signal_number == signal.SIGHUP:
            discard_closed_terminals()
        caught["signal"] = signal_number

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, remember)
    return caught


def _release_signals() -> None:
    """Let signals end the process at once again: outputs are written atomically."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _largest_of_ranks(numbers: list[int], context: DistributedContext) -> list[int]:
    """Return the element-wise maximum over all ranks."""
    if context.size == 1:
        return numbers
    flags = torch.tensor(numbers, device=context.device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    largest: list[int] = flags.tolist()
    return largest


def _mean_over_ranks(losses: Losses, context: DistributedContext) -> Row:
    stacked = torch.stack([value.float() for value in losses.values()])
    if context.size > 1:
        dist.all_reduce(stacked)
        stacked /= context.size
    return dict(zip(losses, stacked.tolist(), strict=True))
