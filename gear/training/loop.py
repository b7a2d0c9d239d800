"""The training loop: data by step, logs, codebook health, checkpoints, signals. What a step does is in step.py."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from gear.config import Config, StageFailed
from gear.data.sampling_plan import Plan
from gear.data.shards import Split
from gear.generator.conditioning import Condition
from gear.training.engines import Average, World, set_lr
from gear.training.health import CodebookHealth, Collapse
from gear.training.state import WorkFolder
from gear.training.step import Batch, JointStep, NonFinite


class Feed:
    """Batches by step number: the same for any number of ranks, and after any resume."""

    def __init__(
        self,
        split: Split,
        plan: Plan,
        world: World,
        *,
        features: np.ndarray | None = None,
        condition: Callable[[np.ndarray], Condition] | None = None,
        tokens: np.ndarray | None = None,
    ) -> None:
        self.split, self.plan, self.world, self.features, self.condition, self.tokens = split, plan, world, features, condition, tokens

    def __call__(self, step: int) -> Batch:
        """This rank's share of batch `step`."""
        indices, flips = self.plan.batch(step)
        mine = slice(self.world.rank, None, self.world.size)
        indices, flips = indices[mine], flips[mine]
        device, views = self.world.device, flips.astype(np.int64)
        images = teacher = tokens = None
        if self.tokens is not None:
            tokens = torch.from_numpy(self.tokens[indices, views].astype(np.int64)).to(device)
        else:
            pixels = self.split.images(indices)
            pixels[flips] = pixels[flips][:, :, ::-1]
            images = torch.from_numpy(_floats(pixels)).to(device)
        if self.features is not None:
            teacher = torch.from_numpy(self.features[indices, views].astype(np.float32)).to(device)
        condition = self.condition(indices).to(device) if self.condition is not None else None
        return Batch(images, condition, teacher, [self.split.keys[i] for i in indices], tokens)


def _floats(pixels: np.ndarray) -> np.ndarray:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]. By numpy: torch's threads are the training's, this runs beside it."""
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    images /= np.float32(127.5)
    images -= np.float32(1.0)
    return images


def fetched_ahead(feed: Feed, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """Steps and their batches; the next batch is read and decoded while the last one is trained on."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as fetch:
        waiting = [fetch.submit(feed, first)] if first < steps else []
        for number in range(first, steps):
            batch = waiting.pop().result()
            if number + 1 < steps:
                waiting.append(fetch.submit(feed, number + 1))
            yield number, batch


@dataclass(frozen=True)
class Probe:
    """A measurement of averaged weights while training goes on: names to values, every `every` steps."""

    every: int
    measure: Callable[[dict[str, Average]], dict[str, float]]


class Stopped(SystemExit):
    """A signal ended training after its state was saved."""


class AskedToStop(StageFailed):
    """Training ended because a file `stop` in its work folder asked for it; its state was saved."""


ASKED = 1  # beside the numbers of SIGINT and SIGTERM, which go before it


def train(
    name: str,
    config: Config,
    step: JointStep,
    feed: Feed,
    *,
    steps: int,
    lrs: dict[str, float],
    averages: dict[str, Average],
    work: WorkFolder,
    codes: int,
    log: Path,
    probe: Probe | None = None,
) -> list[dict[str, float]]:
    """Run steps 0..steps-1, resuming where `work` left off. Returns the logged rows (step, losses, codebook; no times).

    `probe` measures the averaged weights on the lead rank before the first step, every `probe.every` steps and at the end.

    Raises `Collapse`, `NonFinite`, `AskedToStop` (state saved), or `Stopped` (state saved, exit code 128 + signal).
    """
    world, health = work.world, CodebookHealth(config.health, codes, feed.world.device)
    rows: list[dict[str, float]] = []
    first = _resume(step, averages, health, rows, work)
    stop = _catch_signals()
    reporter = Reporter(name, steps, config, world, log, first)
    if probe and first == 0:
        rows.append({"step": 0, **_measure(probe, averages, world)})
        reporter.row(rows[-1])
    for number, batch in fetched_ahead(feed, first, steps):
        torch.manual_seed(_step_seed(config.run.seed, number, world.rank))
        for engine_name, engine in step.engines.items():
            set_lr(engine, lrs[engine_name], number, config.train.warmup)
        try:
            losses, indices = step(batch, number)
        except NonFinite as error:
            file = work.note(f"nonfinite-step-{number}-rank-{world.rank}.json", {"step": number, "loss": str(error), "images": error.keys})
            raise StageFailed(f"{name} step {number}: {error}; its images are named in {file}") from None
        for average in averages.values():
            average.update()
        health.count(indices)
        done = number + 1
        window_ends, logging = done % config.health.window == 0, done % config.train.log_every == 0
        if window_ends:
            health.close_window()
        probing = probe is not None and (done % probe.every == 0 or done == steps)
        if logging or done == steps or probing:
            measured = _measure(probe, averages, world) if probe and probing else {}
            rows.append({"step": done, **_mean_over_ranks(losses, world), **health.latest, **measured})
            reporter.row(rows[-1])
        try:
            health.check(done)
        except Collapse as error:
            raise Collapse(f"{error}; {_where_next(work)}") from None
        asked = ASKED if world.lead and (logging or window_ends) and work.stop_requested() else 0
        stopping = _any_rank(stop["signal"] or asked, world)
        if stopping == ASKED:
            where, reason = work.save_stopped(step.engines, _state(done, step, averages, health, rows)), work.stop_reason()
            reporter.close()
            raise AskedToStop(f"asked to stop at step {done}: {reason}; state saved in {where}; {_where_next(work)}")
        if stopping or (done % config.train.checkpoint_every == 0 and done < steps):
            work.save(step.engines, _state(done, step, averages, health, rows))
        if window_ends and health.broken() is None:
            work.confirm()
        if stopping:
            reporter.close()
            print(f"{name}: stopped by signal {stopping} at step {done}; state saved, the same command resumes", file=sys.stderr)
            raise Stopped(128 + stopping)
    reporter.close()
    _release_signals()
    return rows


def _where_next(work: WorkFolder) -> str:
    """Fall back to the last healthy state, and say what the same settings would do."""
    last = work.fall_back()
    return f"the same settings would resume from {last or 'the beginning'} and may well end here again: change them"


def _measure(probe: Probe, averages: dict[str, Average], world: World) -> dict[str, float]:
    """The lead rank measures; the others wait at their next collective."""
    return probe.measure(averages) if world.lead else {}


def _state(
    done: int, step: JointStep, averages: dict[str, Average], health: CodebookHealth, rows: list[dict[str, float]]
) -> dict[str, Any]:
    return {
        "step": done,
        "averages": {name: average.weights for name, average in averages.items()},
        "of_step": step.state(),
        "counts": health.counts,
        "latest": health.latest,
        "rows": rows,
    }


def _resume(step: JointStep, averages: dict[str, Average], health: CodebookHealth, rows: list[dict[str, float]], work: WorkFolder) -> int:
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
    if work.world.lead:
        print(f"resuming after step {state['step']}", file=sys.stderr)
    return int(state["step"])


def _step_seed(seed: int, step: int, rank: int) -> int:
    """One seed a step and rank: dropout repeats after a resume with no generator state to keep."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


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


def _any_rank(number: int, world: World) -> int:
    if world.size == 1:
        return number
    flag = torch.tensor(number, device=world.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return int(flag.item())


def _mean_over_ranks(losses: dict[str, torch.Tensor], world: World) -> dict[str, float]:
    stacked = torch.stack([value.float() for value in losses.values()])
    if world.size > 1:
        dist.all_reduce(stacked)
        stacked /= world.size
    return dict(zip(losses, stacked.tolist(), strict=True))


class Reporter:
    """Progress for people (a bar on a terminal, lines elsewhere) and logs for tools; all of it volatile."""

    def __init__(self, name: str, steps: int, config: Config, world: World, log: Path, first: int) -> None:
        self.name, self.steps, self.first, self.lead = name, steps, first, world.lead
        self.batch = config.tokenizer.batch if name == "tokenizer" else config.joint.batch
        self.last_step, self.last_time, self.start = first, time.monotonic(), time.monotonic()
        if not self.lead:
            return
        from dvclive import Live

        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log.open("a")
        self.live = Live(str(log.with_suffix("")), save_dvc_exp=False, dvcyaml=None, report=None, resume=first > 0)
        self.write: Callable[[str], Any] = print
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first, desc=name, unit="step")
            self.write = self.bar.set_postfix_str

    def row(self, row: dict[str, float]) -> None:
        """Show and log one row."""
        if not self.lead:
            return
        now, done = time.monotonic(), int(row["step"])
        rate = (done - self.last_step) * self.batch / max(now - self.last_time, 1e-9)
        eta = (self.steps - done) * (now - self.start) / max(done - self.first, 1)
        self.last_step, self.last_time = done, now
        short = " ".join(f"{key.split('/')[-1]} {value:.4g}" for key, value in row.items() if key != "step")
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            self.write(short)
        else:
            print(f"{self.name} {done}/{self.steps} {short} | {rate:.0f} images/s, {eta:.0f} s left", flush=True)
        self.log.write(json.dumps({**row, "images_per_s": rate}) + "\n")
        self.log.flush()
        self.live.step = done
        for key, value in row.items():
            if key != "step":
                self.live.log_metric(key, value)
        self.live.make_summary()

    def close(self) -> None:
        """End the bar and the logs."""
        if not self.lead:
            return
        if self.bar is not None:
            self.bar.close()
        self.log.close()
        self.live.end()
