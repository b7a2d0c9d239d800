"""Test the log of a training: it is of one run, also if others ran between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gear.runs.training_log import TrainingLog
from gear.training.reporter import start_log

Row = dict[str, float]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs/joint.jsonl"


def rows(fd: float, *steps: int) -> list[Row]:
    return [{"step": step, "fd": fd} for step in steps]


def train(log: Path, earlier: list[Row], new: list[Row]) -> None:
    """Log rows after `earlier`, and write a picture of samples for each."""
    start_log(log, earlier)
    pictures = log.with_name("joint-samples")
    pictures.mkdir(exist_ok=True)
    with log.open("a") as file:
        for row in new:
            file.write(json.dumps(row) + "\n")
            (pictures / f"{row['step']}.png").write_text(str(row["fd"]))


def pictures(log: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in log.with_name("joint-samples").iterdir()}


def test_a_run_that_is_resumed_after_another_has_rows_and_pictures_of_its_own(log: Path) -> None:
    first = rows(9.0, 0, 100, 200)
    train(log, [], first)
    train(log, [], rows(5.0, 0, 100))  # another run, which stops earlier
    train(log, first, rows(9.0, 300))
    assert TrainingLog(log).rows() == rows(9.0, 0, 100, 200, 300)
    assert pictures(log) == {"300": "9.0"}


def test_a_run_that_is_resumed_keeps_its_pictures(log: Path) -> None:
    train(log, [], rows(9.0, 0, 100, 200))  # killed: its state is of step 100
    with log.open("a") as file:
        file.write('{"step": 30')
    train(log, rows(9.0, 0, 100), rows(9.0, 150))
    assert TrainingLog(log).rows() == rows(9.0, 0, 100, 150)
    assert pictures(log).keys() == {"0", "100", "150", "200"}  # the next measurement deletes 200


def test_a_new_run_has_no_picture_of_the_one_before(log: Path) -> None:
    train(log, [], rows(9.0, 0, 100))
    start_log(log, [])
    assert TrainingLog(log).rows() == []
    assert not log.with_name("joint-samples").exists()
