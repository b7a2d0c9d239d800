"""Test the training loop with a toy step: resuming, continuing, and the logged curve."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gear.core.errors import InputError, StageFailed
from gear.core.host_config import HostConfig, RunConfig
from gear.training.batches import Batch
from gear.training.codebook_health import Collapse
from gear.training.config import HealthConfig, TrainConfig
from gear.training.distributed import DistributedContext
from gear.training.ema import EMA
from gear.training.engine import NonFinite
from gear.training.fingerprint import Identity
from gear.training.loop import EvalHook, Stopped, Training
from gear.training.run import TrainingRun, TrainingSettings, open_training
from tests.support.trackers import live_points

CODES = 4


class ToyStep:
    """Adds the batch to a running sum; the sum is its only state."""

    engines: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, module: nn.Linear, fail_at: int = -1, stop_at: int = -1) -> None:
        self.module, self.fail_at, self.stop_at = module, fail_at, stop_at

    def state(self) -> dict[str, torch.Tensor]:
        return {"weight": self.module.weight.detach()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.module.weight.data.copy_(state["weight"])

    def __call__(self, batch: Batch[Any], step: int) -> tuple[dict[str, torch.Tensor], Any]:
        if step == self.fail_at:
            raise NonFinite("toy", float("nan"), batch.keys)
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        noise = torch.rand(1, 1)
        self.module.weight.data.mul_(0.9).add_(batch.images() + noise)
        return {"loss/toy": self.module.weight.detach().sum()}, batch.tokens_BL


def toy_batch(step: int) -> Batch[Any]:
    indices = torch.arange(CODES)[None] if step < 100 else torch.zeros(1, 4, dtype=torch.int64)
    return Batch(torch.full((1, 1), float(step)), None, None, [f"image-{step}"], indices)


def identity(**settings: Any) -> Identity:
    return Identity("toy", settings, inputs={}, code={}, versions={}, params={})


def opened(
    folder: Path,
    steps: int,
    *,
    start_from: Path | None = None,
    lr: float = 0.1,
    trackers: tuple[str, ...] = ("dvclive",),
    **health: Any,
) -> TrainingRun:
    settings = TrainingSettings(
        RunConfig(seed=3),
        TrainConfig(),
        HostConfig(checkpoint_every=3, log_every=4, trackers=trackers),
        HealthConfig(window=2, **health),
        steps,
        batch=1,
    )
    return open_training(
        identity(lr=lr),
        settings,
        states=folder / "s",
        work=folder / "w",
        live=folder / "live",
        start_from=start_from,
    )


def train(
    run: TrainingRun, fail_at: int = -1, every: int = 5, stop_at: int = -1
) -> tuple[list[Any], float, float]:
    """Train; return the curve, the weight and its EMA."""
    torch.manual_seed(0)
    module = nn.Linear(1, 1, bias=False)
    average = EMA(module, 0.5)
    hook = EvalHook(every, lambda averages: {"fd": averages["toy"].weights["weight"].item()})
    training = Training(
        run, ToyStep(module, fail_at, stop_at), averages={"toy": average}, codes=CODES, hook=hook
    )
    rows = training.fit(toy_batch)  # type: ignore[arg-type]
    run.checkpoints.finish()
    return rows, module.weight.item(), average.weights["weight"].item()


@pytest.fixture
def signals() -> Iterator[None]:
    """Restore the signal handlers that a stopped training leaves."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def stop(run: TrainingRun, at: int) -> None:
    """Train until a signal stops the training after step `at`."""
    with pytest.raises(Stopped):
        train(run, stop_at=at - 1)
    run.checkpoints.close()


@pytest.mark.parametrize("first", [7, 8, 9, 10], ids=["plain", "logged", "saved", "measured"])
def test_more_steps_continue_a_finished_training(
    world: DistributedContext, tmp_path: Path, capsys: pytest.CaptureFixture[str], first: int
) -> None:
    whole = train(opened(tmp_path / "whole", 11))
    train(opened(tmp_path / "parts", first))
    capsys.readouterr()
    longer = train(opened(tmp_path / "parts", 11))
    assert f"resuming after step {first}" in capsys.readouterr().err
    assert longer == whole


def test_a_state_that_does_not_fit_is_named(world: DistributedContext, tmp_path: Path) -> None:
    train(opened(tmp_path, 3))
    run = opened(tmp_path, 9)
    module = nn.Linear(1, 1, bias=False)
    averages = {"of another name": EMA(module, 0.5)}
    training = Training(run, ToyStep(module), averages=averages, codes=CODES)
    with pytest.raises(InputError, match="does not fit these settings") as error:
        training.fit(toy_batch)  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{run.checkpoints.folder}: ")
    run.checkpoints.close()


@pytest.mark.parametrize("shape", [(1,), (1, 3), (3, 2)])
def test_averages_take_no_weights_of_another_shape(shape: tuple[int, ...]) -> None:
    """Test shapes that `copy_` would broadcast, too."""
    module = nn.Linear(3, 2, bias=False)
    average = EMA(module, 0.5)
    before = average.weights["weight"].clone()
    with pytest.raises(RuntimeError, match="weight"):
        average.load({"weight": torch.ones(shape)})
    assert torch.equal(average.weights["weight"], before)


def test_a_resumed_training_keeps_what_was_measured_beside_the_curve(
    world: DistributedContext, tmp_path: Path
) -> None:
    train(opened(tmp_path, 7))
    before = live_points(tmp_path / "live/toy")["time/compute"]
    rows, *_ = train(opened(tmp_path, 11))
    points = live_points(tmp_path / "live/toy")
    assert [step for step, _ in points["loss/toy"]] == [4, 5, 8, 10, 11]
    assert points["loss/toy"] == [(row["step"], row["loss/toy"]) for row in rows if row["step"]]
    assert points["time/compute"][:2] == before[:2]
    assert [step for step, _ in points["time/compute"]] == [4, 5, 8, 10, 11]
    assert not any("time/compute" in row for row in rows)


class SlowToRead(torch.Tensor):
    """A value that the host waits 0.2 s for, like one that a GPU still computes."""

    def float(self) -> torch.Tensor:  # type: ignore[override]
        time.sleep(0.2)
        return self.as_subclass(torch.Tensor).float()


def test_waiting_for_the_losses_of_a_logged_step_counts_as_its_work(
    world: DistributedContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ToyStep.__call__

    def slow(self: ToyStep, batch: Batch[Any], step: int) -> tuple[dict[str, Any], Any]:
        losses, indices = call(self, batch, step)
        return {name: value.as_subclass(SlowToRead) for name, value in losses.items()}, indices

    monkeypatch.setattr(ToyStep, "__call__", slow)
    train(opened(tmp_path, 4), every=100)
    [(_, seconds)] = live_points(tmp_path / "live/toy")["time/compute"]
    assert seconds * 4 >= 0.2


def test_a_training_goes_on_without_a_tracker_that_fails(
    world: DistributedContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(opened(tmp_path / "whole", 7, trackers=()))
    (tmp_path / "other/w").mkdir(parents=True)
    (tmp_path / "other/w/tensorboard").write_text("no folder")
    assert train(opened(tmp_path / "other", 7, trackers=("tensorboard", "dvclive"))) == whole
    assert "toy: tensorboard is left out from here on (" in capsys.readouterr().err
    assert "loss/toy" in live_points(tmp_path / "other/live/toy")
    assert not (tmp_path / "whole/live").exists()


@pytest.mark.parametrize("steps", [7, 8, 10, 12])
def test_a_curve_ends_with_a_measured_row_at_the_last_step(
    world: DistributedContext, tmp_path: Path, steps: int
) -> None:
    rows, _, average = train(opened(tmp_path, steps))
    assert [row["step"] for row in rows] == sorted(
        {0, 4, 5, 8, 10, 12, steps} & {*range(steps + 1)}
    )
    assert rows[-1]["fd"] == average


def test_what_a_measurement_shows_is_told_its_step(
    world: DistributedContext, tmp_path: Path
) -> None:
    asked: list[int] = []
    module = nn.Linear(1, 1, bias=False)
    hook = EvalHook(5, lambda averages: {"fd": 1.0}, show=asked.append)
    average = EMA(module, 0.5)
    Training(
        opened(tmp_path, 7), ToyStep(module, -1), averages={"toy": average}, codes=CODES, hook=hook
    ).fit(toy_batch)  # type: ignore[arg-type]
    assert asked == [0, 5, 7]


def test_a_finished_training_run_again_gives_the_same_without_a_step(
    world: DistributedContext, tmp_path: Path
) -> None:
    first = train(opened(tmp_path, 7))
    assert train(opened(tmp_path, 7), fail_at=6) == first


def test_a_failed_training_resumes_from_its_last_state(
    world: DistributedContext, tmp_path: Path
) -> None:
    whole = train(opened(tmp_path / "whole", 11))
    run = opened(tmp_path / "parts", 11)
    with pytest.raises(StageFailed, match="its images are named in"):
        train(run, fail_at=7)
    run.checkpoints.close()
    assert train(opened(tmp_path / "parts", 11), fail_at=5) == whole


def test_fewer_steps_than_the_state_has_train_anew_and_keep_it(
    world: DistributedContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, whole = train(opened(tmp_path / "short", 5)), train(opened(tmp_path / "whole", 11))
    run = opened(tmp_path / "parts", 11)
    with pytest.raises(StageFailed):
        train(run, fail_at=7)
    run.checkpoints.close()
    assert train(opened(tmp_path / "parts", 5)) == short
    message = "its state is at step 6, past the 5 asked for; that state is kept"
    assert message in capsys.readouterr().err
    assert train(opened(tmp_path / "parts", 11)) == whole
    assert "resuming after step 6" in capsys.readouterr().err


def test_a_shorter_training_keeps_the_finished_state_of_the_longer_one(
    world: DistributedContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(opened(tmp_path / "whole", 11))
    train(opened(tmp_path / "parts", 7))
    train(opened(tmp_path / "parts", 4))
    capsys.readouterr()
    assert train(opened(tmp_path / "parts", 11)) == whole
    assert "resuming after step 7" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "junk", "step-1\0"])
def test_a_training_resumes_if_the_file_latest_is_damaged(
    world: DistributedContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
) -> None:
    whole = train(opened(tmp_path / "whole", 11))
    run = opened(tmp_path / "parts", 11)
    with pytest.raises(StageFailed):
        train(run, fail_at=7)
    run.checkpoints.close()
    (run.checkpoints.folder / "latest").write_text(content)
    assert train(opened(tmp_path / "parts", 11)) == whole
    assert "resuming after step 6" in capsys.readouterr().err


def test_a_changed_setting_starts_anew_and_names_the_other_state(
    world: DistributedContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(opened(tmp_path, 5))
    other = opened(tmp_path, 5, lr=0.2)
    output = capsys.readouterr().out
    assert "found a state of toy at step 5 with lr 0.1 -> 0.2; starting anew" in output
    assert f"`gear toy --from {tmp_path / 's/toy' / identity(lr=0.1).fingerprint}`" in output
    assert other.checkpoints.latest_step() is None
    other.checkpoints.close()


def test_start_from_goes_on_from_another_state_and_records_it(
    world: DistributedContext, tmp_path: Path
) -> None:
    first = opened(tmp_path, 6)
    train(first)
    whole = train(opened(tmp_path / "whole", 9))
    second = opened(tmp_path, 9, lr=0.2, start_from=first.checkpoints.folder)
    assert train(second) == whole
    description = (second.checkpoints.folder / "description.json").read_text()
    assert '"lr": 0.1' in description
    second.finish(tmp_path / "made", {}, [])
    start = json.loads((tmp_path / "made/started-from.json").read_text())
    assert start == {"stage": "toy", "step": 6, "differences": ["lr 0.1 -> 0.2"]}


def test_without_start_from_a_training_never_resumes_the_weights_of_another(
    world: DistributedContext, tmp_path: Path, capsys: pytest.CaptureFixture[str], signals: None
) -> None:
    source = stopped_after_start_from(tmp_path)
    capsys.readouterr()
    plain = opened(tmp_path, 13, lr=0.2)
    assert plain.checkpoints.latest_step() is None
    assert f"at step 10 with --from {source.name}; starting anew" in capsys.readouterr().out
    plain.checkpoints.close()
    mixed = plain.checkpoints.folder.with_name(
        f"{plain.checkpoints.folder.name}-from-{source.name}"
    )
    train(opened(tmp_path, 13, lr=0.2, start_from=mixed))  # its own state can be named, too
    assert f"resuming after step 10 of {mixed}" in capsys.readouterr().err


def stopped_after_start_from(folder: Path) -> Path:
    """Start a training from step 6 of another one, stop it at step 10; return the other's folder."""
    first = opened(folder, 6)
    train(first)
    source = first.checkpoints.folder
    stop(opened(folder, 13, lr=0.2, start_from=source), at=10)
    return source


def test_start_from_goes_on_from_its_own_state_after_a_stop(
    world: DistributedContext, tmp_path: Path, signals: None
) -> None:
    whole = train(opened(tmp_path / "whole", 13))
    source = stopped_after_start_from(tmp_path)
    again = opened(tmp_path, 13, lr=0.2, start_from=source)
    assert train(again, fail_at=9) == whole, "step 9 was not trained again"


def test_start_from_a_state_that_has_moved_on_starts_from_it(
    world: DistributedContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    signals: None,
) -> None:
    source = stopped_after_start_from(tmp_path)
    train(opened(tmp_path, 8))
    capsys.readouterr()
    train(opened(tmp_path, 13, lr=0.2, start_from=source))
    assert f"resuming after step 8 of {source}" in capsys.readouterr().err


def test_start_from_another_training_starts_from_it(
    world: DistributedContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    signals: None,
) -> None:
    stopped_after_start_from(tmp_path)
    second = opened(tmp_path, 6, lr=0.3)
    train(second)
    capsys.readouterr()
    train(opened(tmp_path, 13, lr=0.2, start_from=second.checkpoints.folder))
    assert f"resuming after step 6 of {second.checkpoints.folder}" in capsys.readouterr().err


def test_start_from_with_fewer_steps_than_its_own_state_starts_from_it(
    world: DistributedContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    signals: None,
) -> None:
    source = stopped_after_start_from(tmp_path)
    capsys.readouterr()
    train(opened(tmp_path, 8, lr=0.2, start_from=source))
    assert f"resuming after step 6 of {source}" in capsys.readouterr().err


def test_start_from_a_folder_without_a_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no state of a training"):
        opened(tmp_path, 3, start_from=tmp_path)


def test_start_from_a_state_of_another_stage_is_refused(
    world: DistributedContext, tmp_path: Path
) -> None:
    run = opened(tmp_path, 3)
    train(run)
    file = run.checkpoints.folder / "description.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"stage": "other"}))
    with pytest.raises(InputError, match="a state of other, and this trains toy"):
        opened(tmp_path / "second", 3, start_from=run.checkpoints.folder)


def test_only_the_last_finished_state_of_a_stage_is_kept(
    world: DistributedContext, tmp_path: Path
) -> None:
    first, second = opened(tmp_path, 3), None
    train(first)
    second = opened(tmp_path, 3, lr=0.2)
    train(second)
    assert not first.checkpoints.folder.exists()
    assert second.checkpoints.latest_step() == 3


def test_a_second_training_of_a_stage_is_refused_whatever_its_settings(
    world: DistributedContext, tmp_path: Path
) -> None:
    first = opened(tmp_path, 3)
    with pytest.raises(InputError, match="another process is training toy in this checkout"):
        opened(tmp_path, 3, lr=0.2)
    first.checkpoints.close()


def test_a_collapse_names_the_state_to_go_on_from(
    world: DistributedContext, tmp_path: Path
) -> None:
    run = opened(tmp_path, 120, min_usage=0.5, after_step=2)
    folder = run.checkpoints.folder
    with pytest.raises(Collapse, match=f"go on from it with `gear toy --from {folder}`"):
        train(run)
    assert run.checkpoints.latest_step() == 100 - 100 % 3
    run.checkpoints.close()
