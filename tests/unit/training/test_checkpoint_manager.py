"""Test the checkpoint manager: which states are kept, roll-back, stop requests and locks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gear.core.errors import InputError
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.distributed import DistributedContext


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((4,), float(step))}


def kept(work: CheckpointManager) -> set[str]:
    return {path.name for path in work.folder.glob("*step-*")}


def test_the_newest_and_the_last_healthy_state_are_kept_and_no_other(
    world: DistributedContext, tmp_path: Path
) -> None:
    work = CheckpointManager(tmp_path / "w", world)
    for step in (1, 2):
        work.save({}, state(step))
    assert kept(work) == {"step-2"}
    work.mark_healthy()
    for step in (3, 4):
        work.save({}, state(step))
    assert kept(work) == {"step-2", "step-4"}
    assert work.roll_back() == work.folder / "step-2"
    restored = work.load({})
    assert restored is not None
    assert restored["step"] == 2
    work.save({}, state(3))
    work.mark_healthy()
    assert kept(work) == {"step-3"}


def test_without_a_confirmed_state_the_newest_is_what_is_left(
    world: DistributedContext, tmp_path: Path
) -> None:
    work = CheckpointManager(tmp_path / "w", world)
    assert work.roll_back() is None
    assert work.load({}) is None
    work.save({}, state(1))
    assert work.roll_back() == work.folder / "step-1"


def test_a_stopped_run_is_saved_beside_the_state_it_would_resume_from(
    world: DistributedContext, tmp_path: Path
) -> None:
    work = CheckpointManager(tmp_path / "w", world)
    work.save({}, state(4))
    assert work.save_stopped({}, state(7)) == work.folder / "stopped-step-7"
    restored = work.load({})
    assert restored is not None
    assert restored["step"] == 4
    assert kept(work) == {"step-4", "stopped-step-7"}
    alone = CheckpointManager(tmp_path / "other", world)
    alone.save_stopped({}, state(3))
    restored = alone.load({})
    assert restored is not None
    assert restored["step"] == 3


def test_states_are_forgotten_again_if_a_kill_left_forgotten_ones(
    world: DistributedContext, tmp_path: Path
) -> None:
    work = CheckpointManager(tmp_path / "w", world)
    work.save({}, state(1))
    (work.folder / "forgotten-step-1").mkdir()
    (work.folder / "forgotten-step-1" / "state.pt").touch()
    work.forget()
    assert work.load({}) is None
    work.save({}, state(1))
    assert kept(work) == {"step-1"}


def test_a_stop_request_is_read_and_is_not_meant_for_the_next_run(
    world: DistributedContext, tmp_path: Path
) -> None:
    work = CheckpointManager(tmp_path / "w", world)
    assert not work.stop_requested()
    (work.folder / "stop").write_text("too few\ncodes")
    assert work.stop_requested()
    assert work.stop_reason() == "too few codes"
    with pytest.raises(InputError, match="another process is training"):
        CheckpointManager(work.folder, world)
    assert work.stop_requested()  # the refused one does not clear the request
    work.close()
    assert not CheckpointManager(work.folder, world).stop_requested()


def test_a_state_saved_again_leaves_a_reader_s_hard_link_as_it_was(
    world: DistributedContext, tmp_path: Path
) -> None:
    work = CheckpointManager(tmp_path / "w", world)
    work.save({}, state(5))
    link = tmp_path / "state.pt"
    link.hardlink_to(work.folder / "step-5" / "state.pt")
    work.save({}, {**state(5), "weights": torch.zeros(4)})
    assert torch.load(link, weights_only=True)["weights"].tolist() == [5.0] * 4
