"""Test that states written during training are those of the saved step, or none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gear.training import background_writer
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.config import TrainConfig
from gear.training.distributed import DistributedContext
from gear.training.engine import build_engine, update_weights
from gear.training.state_files import damage, find_whole


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make writing wait until an event is set, as on a slow disk."""
    opened = threading.Event()
    write = background_writer._write

    def wait_and_write(*arguments: Any) -> background_writer.Write:
        assert opened.wait(30)
        return write(*arguments)

    monkeypatch.setattr(background_writer, "_write", wait_and_write)
    return opened


def train_a_step(engine: Any) -> None:
    update_weights(engine, engine(torch.ones(1, 3)).sum(), "model", [])


def test_what_is_saved_is_of_its_step_though_training_goes_on(
    world: DistributedContext, tmp_path: Path, gate: threading.Event
) -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    engine = build_engine(module, TrainConfig(bf16=False), world, lr=0.1, batch=1)
    manager = CheckpointManager(tmp_path / "run", world)
    train_a_step(engine)
    average = module.weight.detach().clone()
    state = {"step": 1, "average": average}
    at_save = {name: value.clone() for name, value in module.state_dict().items()}
    manager.begin_save({"model": engine}, state)
    manager.mark_healthy()
    for _ in range(3):  # in place, like optimizers and EMA
        train_a_step(engine)
        average.add_(1)
    assert manager.writing()
    assert manager.latest_step() is None
    gate.set()
    manager.finish_save()
    assert not manager.writing()
    assert (tmp_path / "run/latest").read_text() == "step-1"
    assert (tmp_path / "run/healthy").read_text() == "step-1"
    assert damage(tmp_path / "run/step-1") is None
    loaded = manager.load({"model": engine})
    manager.close()
    assert loaded is not None
    assert torch.equal(loaded["average"], at_save["weight"])
    for name, value in engine.module.state_dict().items():
        assert torch.equal(value, at_save[name])


def test_the_next_save_waits_for_the_one_before(
    world: DistributedContext, tmp_path: Path, gate: threading.Event
) -> None:
    manager = CheckpointManager(tmp_path / "run", world)
    manager.begin_save({}, {"step": 1})
    threading.Timer(0.2, gate.set).start()
    manager.begin_save({}, {"step": 2})
    assert manager.latest_step() == 1
    manager.finish()
    assert manager.latest_step() == 2


def test_a_file_that_cannot_be_written_leaves_the_state_before(
    world: DistributedContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path / "run", world)
    manager.save({}, {"step": 1})

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(background_writer, "flush", full)
        manager.begin_save({}, {"step": 2})
        with pytest.raises(OSError, match="No space left"):
            manager.finish_save()
    manager.finish()
    found = find_whole(tmp_path / "run")
    assert found == tmp_path / "run/step-1"
    assert manager.latest_step() == 1
