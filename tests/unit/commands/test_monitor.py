"""Test which training the monitor asks to stop."""

from __future__ import annotations

from pathlib import Path

from gear.commands.monitor import _ask_to_stop, _training
from gear.core.files import exclusive_lock
from gear.runs.find_checkpoints import Checkpoint


def test_only_the_training_whose_state_was_read_is_asked_to_stop(tmp_path: Path) -> None:
    checkpoint = Checkpoint("joint", "run", tmp_path, tmp_path / "step-4", 4, 0)
    with exclusive_lock(tmp_path / "lock", "{holder}"):
        training = _training(checkpoint)
        assert _ask_to_stop(checkpoint, training, "collapsed")
        assert (tmp_path / "stop").read_text() == "collapsed"
    (tmp_path / "stop").unlink()
    with exclusive_lock(tmp_path / "lock", "{holder}"):  # the next run of the folder
        assert not _ask_to_stop(checkpoint, training, "collapsed")
    assert not (tmp_path / "stop").exists()
