"""The training loop: data by step, logs, codebook health, checkpoints, signals. What a step does is in step.py."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from gear.core.errors import StageFailed
from gear.joint.step import JointStep
from gear.params import Config
from gear.training.autoencoder import NonFinite
from gear.training.batches import BatchLoader, prefetch
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.codebook_health import CodebookHealth, Collapse
from gear.training.distributed import DistributedContext
from gear.training.ema import EMA
from gear.training.engine import set_lr
from gear.training.reporter import Reporter


@dataclass(frozen=True)
class EvalHook:
    """A measurement of averaged weights while training goes on: names to values, every `every` steps."""

    every: int
    measure: Callable[[dict[str, EMA]], dict[str, float]]


class Stopped(SystemExit):
    """A signal ended training after its state was saved."""


class StopRequested(StageFailed):
    """Training ended because a file `stop` in its work folder asked for it; its state was saved."""


ASKED = 1  # beside the numbers of SIGINT and SIGTERM, which go before it


def train(
    name: str,
    config: Config,
    step: JointStep,
    feed: BatchLoader,
    *,
    steps: int,
    lrs: dict[str, float],
    averages: dict[str, EMA],
    work: CheckpointManager,
    codes: int,
    log: Path,
    probe: EvalHook | None = None,
) -> list[dict[str, float]]:
    """Run steps 0..steps-1, resuming where `work` left off. Returns the logged rows (step, losses, codebook; no times).

    `probe` measures the averaged weights on the lead rank before the first step, every `probe.every` steps and at the end.

    Raises `Collapse`, `NonFinite`, `StopRequested` (state saved), or `Stopped` (state saved, exit code 128 + signal).
    """
    world, health = work.world, CodebookHealth(config.health, codes, feed.world.device)
    rows: list[dict[str, float]] = []
    first = _resume(step, averages, health, rows, work)
    stop = _catch_signals()
    reporter = Reporter(name, steps, config, world, log, first)
    if probe and first == 0:
        rows.append({"step": 0, **_measure(probe, averages, world)})
        reporter.row(rows[-1])
    for number, batch in prefetch(feed, first, steps):
        torch.manual_seed(_step_seed(config.run.seed, number, world.rank))
        for engine_name, engine in step.engines.items():
            set_lr(engine, lrs[engine_name], number, config.train.warmup)
        try:
            losses, indices = step(batch, number)
        except NonFinite as error:
            file = work.note(
                f"nonfinite-step-{number}-rank-{world.rank}.json",
                {"step": number, "loss": str(error), "images": error.keys},
            )
            raise StageFailed(
                f"{name} step {number}: {error}; its images are named in {file}"
            ) from None
        for average in averages.values():
            average.update()
        health.count(indices)
        done = number + 1
        window_ends, logging = done % config.health.window == 0, done % config.host.log_every == 0
        if window_ends:
            health.close_window()
        probing = probe is not None and (done % probe.every == 0 or done == steps)
        if logging or done == steps or probing:
            measured = _measure(probe, averages, world) if probe and probing else {}
            rows.append(
                {"step": done, **_mean_over_ranks(losses, world), **health.latest, **measured}
            )
            reporter.row(rows[-1])
        try:
            health.check(done)
        except Collapse as error:
            raise Collapse(f"{error}; {_where_next(work)}") from None
        asked = (
            ASKED
            if world.is_rank_zero and (logging or window_ends) and work.stop_requested()
            else 0
        )
        stopping = _any_rank(stop["signal"] or asked, world)
        if stopping == ASKED:
            where, reason = (
                work.save_stopped(step.engines, _state(done, step, averages, health, rows)),
                work.stop_reason(),
            )
            reporter.close()
            raise StopRequested(
                f"asked to stop at step {done}: {reason}; state saved in {where}; {_where_next(work)}"
            )
        if stopping or (done % config.host.checkpoint_every == 0 and done < steps):
            work.save(step.engines, _state(done, step, averages, health, rows))
        if window_ends and health.broken() is None:
            work.mark_healthy()
        if stopping:
            reporter.close()
            print(
                f"{name}: stopped by signal {stopping} at step {done}; state saved, the same command resumes",
                file=sys.stderr,
            )
            raise Stopped(128 + stopping)
    reporter.close()
    _release_signals()
    return rows


def _where_next(work: CheckpointManager) -> str:
    """Fall back to the last healthy state, and say what the same settings would do."""
    last = work.roll_back()
    return f"the same settings would resume from {last or 'the beginning'} and may well end here again: change them"


def _measure(
    probe: EvalHook, averages: dict[str, EMA], world: DistributedContext
) -> dict[str, float]:
    """The lead rank measures; the others wait at their next collective."""
    return probe.measure(averages) if world.is_rank_zero else {}


def _state(
    done: int,
    step: JointStep,
    averages: dict[str, EMA],
    health: CodebookHealth,
    rows: list[dict[str, float]],
) -> dict[str, Any]:
    return {
        "step": done,
        "averages": {name: average.weights for name, average in averages.items()},
        "of_step": step.state(),
        "counts": health.counts,
        "latest": health.latest,
        "rows": rows,
    }


def _resume(
    step: JointStep,
    averages: dict[str, EMA],
    health: CodebookHealth,
    rows: list[dict[str, float]],
    work: CheckpointManager,
) -> int:
    state = work.load(step.engines)
    if state is None:
        return 0
    for name, average in averages.items():
        for key, value in state["averages"][name].items():
            average.weights[key].copy_(value)
    step.restore(state["of_step"])
    health.counts.copy_(state["counts"])
    health.latest = state["latest"]
    rows.extend(state["rows"])
    if work.world.is_rank_zero:
        print(f"resuming after step {state['step']}", file=sys.stderr)
    return int(state["step"])


def _step_seed(seed: int, step: int, rank: int) -> int:
    """One seed a step and rank: dropout repeats after a resume with no generator state to keep."""
    return int(
        np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def _catch_signals() -> dict[str, int]:
    caught = {"signal": 0}

    def remember(number: int, _frame: Any) -> None:
        caught["signal"] = number

    signal.signal(signal.SIGTERM, remember)
    signal.signal(signal.SIGINT, remember)
    return caught


def _release_signals() -> None:
    """After the last step a signal ends the process at once: outputs are put in place whole or not at all."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _any_rank(number: int, world: DistributedContext) -> int:
    if world.size == 1:
        return number
    flag = torch.tensor(number, device=world.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return int(flag.item())


def _mean_over_ranks(
    losses: dict[str, torch.Tensor], world: DistributedContext
) -> dict[str, float]:
    stacked = torch.stack([value.float() for value in losses.values()])
    if world.size > 1:
        dist.all_reduce(stacked)
        stacked /= world.size
    return dict(zip(losses, stacked.tolist(), strict=True))
