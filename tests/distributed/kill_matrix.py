"""Kill trainings at random moments and resume them: `python -m tests.distributed.kill_matrix`.

Every training of the tiny preset, in fp32, is killed with SIGKILL, half of the time while a state
is being written, and resumed with the same or another number of ranks. The table shows how much
the models differ from those of an uninterrupted run. With the same number of ranks they must be
bitwise equal. With another number the losses of the next step must agree to 1e-5; how far weights
are apart at the end is shown. The exit code is 1 if a resumed run fails or differs by more.
As many trainings run at a time as there are cores for their ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from safetensors.torch import load_file

from tests.support.commands import ENV, gear, run_gear
from tests.support.settings import edit_params, tiny_settings, write_params

STAGES = ("tokenizer", "joint", "generator")
RANKS = ((1, 1), (2, 2), (1, 2), (2, 1))  # number of ranks before and after the kill
# Limit after a change of ranks, of losses of the first step: |a - b| / max(1, |b|). Weights are no
# test: rounding gives one latent another token sooner or later, and later steps go another way.
CLOSE = 1e-5


@dataclass(frozen=True)
class Case:
    """Outcome of one kill and of the resumed run."""

    saving: bool
    resumed: bool
    first: float  # difference of losses in the first step after the resume
    difference: float  # of a weight, at the end


def prepare(folder: Path, gan_from: int = 1_000_000) -> None:
    """Run the pipeline through the generator; the discriminator joins at step `gan_from`."""
    config = tiny_settings(
        host={"log_every": 1, "checkpoint_every": 1},
        train={"bf16": False},
        joint={"batch": 8, "fd_every": 0},
        generator={"steps": 12},
        gan={"start_step": gan_from},
    )
    write_params(folder, config)
    for stage in ("ingest", "features", "reference", *STAGES):
        gear(folder, stage)


def uninterrupted(prepared: Path, folder: Path, stage: str, ranks: int) -> Path:
    """Run a stage without interruption with a number of ranks; return its folder."""
    cwd = twin(prepared, folder / f"{stage}-{ranks}", stage, ranks)
    gear(cwd, stage)
    return cwd


def twin(prepared: Path, cwd: Path, stage: str, ranks: int) -> Path:
    shutil.copytree(prepared, cwd)
    shutil.rmtree(cwd / "data/models" / stage)
    shutil.rmtree(cwd / ".gear" / stage)
    edit_params(cwd, host={"ranks": ranks})
    return cwd


def kill(cwd: Path, stage: str, saving: bool, moments: random.Random) -> bool:
    """Start a training and kill it and its ranks; return whether a state was being written."""
    command = [sys.executable, "-m", "gear", stage]
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, cwd=cwd, env=ENV, stdout=quiet, stderr=quiet)
    states = cwd / ".gear" / stage
    skip = moments.randrange(6)  # number of saves to let pass
    seen = 0
    was_saving = False
    while child.poll() is None:
        drafts = [*states.glob("*/step-*.partial")]
        if saving and drafts and not was_saving:
            seen += 1
            if seen > skip:
                time.sleep(moments.random() * 0.02)
                break
        elif not saving and [*states.glob("*/step-*")]:
            time.sleep(moments.random() * 0.5)
            break
        was_saving = bool(drafts)
        time.sleep(0.0005)
    if child.poll() is not None:
        return False  # it ended before the kill
    parent = psutil.Process(child.pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)
    child.wait()
    return bool([*states.glob("*/step-*.partial")])


def difference(cwd: Path, other: Path, stage: str) -> float:
    """Return the largest difference between the weights that a stage wrote in two folders."""
    worst = 0.0
    for file in sorted((cwd / "data/models" / stage).rglob("model.safetensors")):
        ours = load_file(file)
        theirs = load_file(other / file.relative_to(cwd))
        assert ours.keys() == theirs.keys()
        worst = max(worst, *((ours[k] - theirs[k]).abs().max().item() for k in ours))
    return worst


def losses_after(cwd: Path, stage: str, step: int) -> dict[str, float]:
    """Return the losses of the first step after `step`; {} if there is none."""
    rows = map(json.loads, (cwd / "data/models" / stage / "curves.jsonl").read_text().splitlines())
    return next(
        (
            {name: value for name, value in row.items() if name.startswith("loss/")}
            for row in rows
            if row["step"] == step + 1
        ),
        {},
    )


def run_case(
    prepared: Path, whole: Path, stage: str, ranks: tuple[int, int], number: int, seed: int
) -> Case | str:
    """Kill a training of `ranks[0]` ranks, run it again with `ranks[1]`, compare it with `whole`.

    The kill of an even `number` waits for a state that is being written. Return the last lines of
    stderr if the second run fails.
    """
    cwd = twin(prepared, prepared.parent / f"killed-{number}", stage, ranks[0])
    moments = random.Random(f"{seed} {stage} {ranks} {number}")
    saving = kill(cwd, stage, number % 2 == 0, moments)
    edit_params(cwd, host={"ranks": ranks[1]})
    done = run_gear(cwd, stage)
    try:
        if done.returncode:
            return done.stderr[-2000:]
        resumed = re.search(r"resuming after step (\d+)", done.stderr)
        step = int(resumed[1]) if resumed else 0
        ours, theirs = (losses_after(folder, stage, step) for folder in (cwd, whole))
        assert ours.keys() == theirs.keys()
        apart = (abs(ours[name] - theirs[name]) / max(1.0, abs(theirs[name])) for name in ours)
        return Case(saving, bool(resumed), max(apart, default=0.0), difference(cwd, whole, stage))
    finally:
        shutil.rmtree(cwd)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each row (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    arguments = parser.parse_args()
    failed = 0
    print(
        "| training | ranks | kills | while saving | resumed | equal to the bit "
        "| losses of the next step | weights at the end |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepared = folder / "prepared"
        prepare(prepared)
        for stage in arguments.stages:
            whole = {ranks: uninterrupted(prepared, folder, stage, ranks) for ranks in (1, 2)}
            apart = difference(whole[1], whole[2], stage)
            print(f"| {stage} | 2 instead of 1 | none | | | | | {apart:.1e} |", flush=True)
            for ranks in RANKS:
                one = partial(
                    run_case, prepared, whole[ranks[0]], stage, ranks, seed=arguments.seed
                )
                with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // max(ranks))) as pool:
                    outcomes = list(pool.map(one, range(arguments.kills)))
                cases = [outcome for outcome in outcomes if isinstance(outcome, Case)]
                errors = [outcome for outcome in outcomes if isinstance(outcome, str)]
                for error in errors:
                    print(error, file=sys.stderr, flush=True)
                worst = max((case.difference for case in cases), default=0.0)
                first = max((case.first for case in cases), default=0.0)
                fails = worst > 0 if ranks[0] == ranks[1] else first > CLOSE
                failed += len(errors) + fails
                row = str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}, then {ranks[1]}"
                print(
                    f"| {stage} | {row} | {len(cases)} | "
                    f"{sum(c.saving for c in cases)} | {sum(c.resumed for c in cases)} | "
                    f"{sum(c.difference == 0 for c in cases)} | {first:.1e} | {worst:.1e} |",
                    flush=True,
                )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
