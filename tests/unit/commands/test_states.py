"""Test that `gear states` lists states with their differences, and prunes outdated ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from gear.cli import main
from gear.core.files import exclusive_lock
from gear.params import load_for_stage
from gear.stages.joint import identity
from tests.support.repo import REPO
from tests.support.settings import edit_params, tiny_settings, write_params


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a joint training's state that has the settings of params.yaml."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_settings())
    training = identity(load_for_stage("joint"))
    folder = Path(".gear/joint") / training.fingerprint
    folder.mkdir(parents=True)
    (folder / "latest").write_text("step-40")
    (folder / "description.json").write_text(json.dumps(training.facts()))
    two_hours_ago = (folder / "latest").stat().st_mtime - 7300
    os.utime(folder / "latest", (two_hours_ago, two_hours_ago))
    return folder


def test_states_shows_what_a_next_run_resumes_from(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["states"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:2] == ["joint", "40"]
    assert "2 h" in line
    assert str(state) in line
    assert "the next run resumes from it" in line


def test_prune_keeps_the_states_of_the_present_settings(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["states", "prune"]) == 0
    assert "states deleted: 0" in capsys.readouterr().out
    assert state.is_dir()


def test_prune_deletes_the_states_of_other_settings(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_params(Path(), joint={"batch": 24})
    assert main(["states"]) == 0
    assert "joint.batch" in capsys.readouterr().out
    assert main(["states", "prune"]) == 0
    assert "states deleted: 1" in capsys.readouterr().out
    assert not state.exists()


def test_prune_keeps_the_newest_tokens_of_a_frozen_tokenizer(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = Path(".gear/tokens/b.npy"), Path(".gear/tokens/a.npy")
    old.parent.mkdir()
    (old.parent / "c.partial").touch()
    for seconds, file in enumerate((old, new)):
        file.touch()
        os.utime(file, (seconds, seconds))
    with exclusive_lock(Path(".gear/generator/lock"), "held"):
        assert main(["states", "prune"]) == 0
    assert old.exists(), "a training may read it"
    assert main(["states", "prune"]) == 0
    assert f"deleted {old}, older cached tokens" in capsys.readouterr().out
    assert [*old.parent.iterdir()] == [new]


def test_states_of_an_empty_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_settings())
    assert main(["states"]) == 0
    assert capsys.readouterr().out == "no states in .gear\n"


def test_start_from_a_folder_without_a_state_is_bad_input(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["joint", "--from", "nowhere"]) == 2
    assert "nowhere: no state of a training" in capsys.readouterr().err


STUDY = """
title: Batches
question: Which batch?
stopping: One seed.
preset: params.yaml
seeds: [0, 1]
arms:
  small: {joint.batch: 8}
  large: {joint.batch: 24}
"""


@pytest.fixture
def study_state(state: Path) -> Path:
    """Return the folder of a joint training's state that run small-1 of a study keeps."""
    shutil.copy(REPO / "dvc.yaml", "dvc.yaml")
    own = Path("params.yaml").read_text()
    edit_params(Path(), joint={"batch": 8}, run={"seed": 1})
    training = identity(load_for_stage("joint"))
    Path("params.yaml").write_text(own)
    Path("studies").mkdir()
    Path("studies/batches.yaml").write_text(STUDY)
    folder = Path(".gear/study-batches/small-1/joint") / training.fingerprint
    folder.mkdir(parents=True)
    (folder / "latest").write_text("step-30")
    inputs = {"inputs": dict.fromkeys(training.inputs, "of the experiment's folder")}
    (folder / "description.json").write_text(json.dumps(training.facts() | inputs))
    return folder


def test_states_of_a_study_are_listed_with_its_run(
    study_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["states"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("joint (study batches, small-1)  30 ")
    assert str(study_state) in line
    assert line.endswith("nothing: the next run resumes from it")


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("{joint.batch: 8}", "{joint.batch: 4}", "joint.batch 8 -> 4"),
        ("seeds: [0, 1]", "seeds: [0]", "no run small-1 in studies/batches.yaml"),
    ],
    ids=["other settings", "no such run"],
)
def test_prune_deletes_the_states_that_a_study_would_not_resume(
    study_state: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, difference: str
) -> None:
    assert main(["states", "prune"]) == 0
    assert study_state.exists()
    Path("studies/batches.yaml").write_text(STUDY.replace(old, new))
    assert main(["states"]) == 0
    assert difference in capsys.readouterr().out
    assert main(["states", "prune"]) == 0
    assert f"deleted {study_state}" in capsys.readouterr().out
    assert not study_state.exists()


def test_prune_keeps_the_states_of_a_study_whose_file_is_elsewhere(
    study_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("studies/batches.yaml").rename("batches.yaml")
    assert main(["states"]) == 0
    assert "unknown: no valid studies/batches.yaml" in capsys.readouterr().out
    assert main(["states", "prune"]) == 0
    assert study_state.exists()
