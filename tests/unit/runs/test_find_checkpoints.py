"""Test which checkpoints of a checkout are measured, and of which runs they are."""

from __future__ import annotations

import json
from pathlib import Path

from gear.runs.find_checkpoints import newest


def save_state(folder: Path, *, root: Path, of_experiment: bool) -> None:
    """Write the files of a finished training's state that are read to find it."""
    (folder / "step-100").mkdir(parents=True)
    (folder / "step-100/state.pt").write_bytes(b"weights")
    (folder / "latest").write_text("step-100")
    description = {"step": 100, "finished": True, "of_experiment": of_experiment}
    (folder / "description.json").write_text(json.dumps(description))
    (folder / "settings.json").write_text(json.dumps({"root": str(root)}))


def test_state_of_an_experiment_is_skipped_once_its_folder_is_gone(tmp_path: Path) -> None:
    apart, state = tmp_path / "experiment", tmp_path / "checkout/.gear/generator/run"
    save_state(state, root=apart, of_experiment=True)
    assert newest(tmp_path / "checkout") == []
    apart.mkdir()
    assert [found.root for found in newest(tmp_path / "checkout")] == [apart]


def test_state_of_a_moved_checkout_is_found(tmp_path: Path) -> None:
    save_state(tmp_path / ".gear/joint/run", root=tmp_path / "before", of_experiment=False)
    assert [(found.run, found.root) for found in newest(tmp_path)] == [("run", tmp_path)]


def test_finished_models_are_of_the_checkouts_run_not_of_an_experiments(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    save_state(tmp_path / ".gear/joint/a-experiment", root=gone, of_experiment=True)
    save_state(tmp_path / ".gear/joint/checkout", root=tmp_path, of_experiment=False)
    models = tmp_path / "data/models/joint"
    (models / "generator").mkdir(parents=True)
    (models / "generator/model.safetensors").write_bytes(b"later than the states")
    (found,) = newest(tmp_path)
    assert (found.run, found.folder, found.step) == ("checkout", models, None)
