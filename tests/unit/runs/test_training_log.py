"""Test reading the log of a training while it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gear.runs.training_log import TrainingLog, seconds_per_step


def line(step: int, **values: float) -> str:
    return json.dumps({"step": step, **values}) + "\n"


def steps(log: TrainingLog) -> list[float]:
    return [row["step"] for row in log.rows()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "joint.jsonl"


def append(file: Path, text: str) -> None:
    with file.open("a") as out:
        out.write(text)


def test_no_log_has_no_rows(file: Path) -> None:
    assert TrainingLog(file).rows() == []


def test_half_a_line_is_no_row_until_it_ends(file: Path) -> None:
    log = TrainingLog(file)
    whole = line(4, fd=2.5)
    append(file, line(2, fd=3.0) + whole[:9])
    assert steps(log) == [2]
    append(file, whole[9:-1])
    assert steps(log) == [2]  # the line has no end yet: more digits could follow
    append(file, "\n")
    assert log.rows()[-1] == {"step": 4.0, "fd": 2.5}


def test_the_newest_run_takes_the_place_of_the_one_before(file: Path) -> None:
    log = TrainingLog(file)
    append(file, line(0) + line(10) + line(20))
    assert steps(log) == [0, 10, 20]
    append(file, line(0) + line(10))
    assert steps(log) == [0, 10]


def test_a_resumed_run_goes_on_from_its_state(file: Path) -> None:
    append(file, line(10) + line(20) + line(30, fd=1.0) + line(25) + line(30, fd=2.0))
    rows = TrainingLog(file).rows()
    assert [row["step"] for row in rows] == [10, 20, 25, 30]
    assert rows[-1]["fd"] == 2.0


def test_what_a_killed_run_left_of_a_line_costs_nothing_of_the_next_run(file: Path) -> None:
    append(file, line(10) + '{"step": 20, "loss/nt' + line(20, fd=5.0))
    assert steps(TrainingLog(file)) == [10, 20]


def test_a_log_that_was_deleted_and_written_anew_is_read_anew(file: Path) -> None:
    log = TrainingLog(file)
    append(file, line(10) + line(20))
    assert steps(log) == [10, 20]
    file.unlink()
    assert steps(log) == []
    append(file, line(5))
    assert steps(log) == [5]


@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "[1]\n",
        "null\n",
        '{"fd": 1}\n',
        '{"step": "2"}\n',
        '{"step": true}\n',
        '{"step": NaN}\n',
        '{"step": -1}\n',
        '{"step": 1e999}\n',
        "{" * 5000 + "\n",
        "\x00\xff\n",
    ],
)
def test_what_is_no_row_is_passed_over(file: Path, text: str) -> None:
    file.write_bytes((line(1) + text + line(2)).encode("latin-1"))
    assert steps(TrainingLog(file)) == [1, 2]


def test_a_line_without_end_does_not_fill_the_memory(file: Path) -> None:
    log = TrainingLog(file)
    append(file, "x" * (3 << 20))
    assert log.rows() == []
    assert len(log._rest) == 0
    append(file, "\n" + line(7))
    assert steps(log) == [7]


def test_the_pace_counts_the_last_steps() -> None:
    slow = [{"step": 10.0 * i, "images_per_s": 8.0} for i in range(5)]
    fast = [{"step": 50.0 + 10 * i, "images_per_s": 80.0} for i in range(5)]
    assert seconds_per_step(slow + fast, batch=16, last=4) == pytest.approx(0.2)
    assert seconds_per_step(slow, batch=16) == pytest.approx(2.0)
    assert seconds_per_step([{"step": 0.0, "images_per_s": 0.0}], batch=16) is None
    assert seconds_per_step([], batch=16) is None
