"""Test the page that follows a run: its parts, escaped text, and the time left."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gear.core.yaml_text import parse_yaml
from gear.report.live_page import LARGEST_STRIP, STRIPS, LivePage, stage_row, time_left
from gear.runs.progress import StageProgress
from tests.support.runs import git, toy_run
from tests.unit.report.test_page import EVIL, NO_ICON, Parsed


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "checkout")


def write_log(checkout: Path, *rows: dict[str, float]) -> None:
    log = checkout / ".gear/logs/joint.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_strip(checkout: Path, step: int, stage: str = "joint") -> Path:
    file = checkout / f".gear/logs/{stage}-samples/{step}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 64, 3), step % 256, np.uint8)).save(file)
    return file


def strips_of(page: str) -> dict[str, Any]:
    found = re.search('data-strips="([^"]*)"', page)
    assert found
    return dict(json.loads(unescape(found[1])))


def test_the_parts_of_a_finished_run(checkout: Path) -> None:
    (checkout / "reports/index.html").write_text("<p>report")
    parts = LivePage(checkout).fragments()
    assert "All stages are done." in parts["progress"]
    assert "Stage joint</h3>" in parts["curves"]  # as its output has it: there is no log
    assert "None: params.yaml is as committed." in parts["settings"]
    assert parts["samples"].strip() == ""
    assert "open it" not in parts["progress"]  # this pipeline has no stage that makes the report


def change_steps(checkout: Path) -> None:
    """Change a setting, so that joint is not done."""
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("steps: 300", "steps: 400"))


def test_curves_follow_the_log(checkout: Path) -> None:
    change_steps(checkout)
    page = LivePage(checkout)
    assert "No training has logged anything yet." in page.fragments()["curves"]
    write_log(checkout, {"step": 0, "fd": 9.0})
    assert page.fragments()["curves"].count("<circle") == 1
    write_log(checkout, {"step": 0, "fd": 9.0}, {"step": 5, "fd": 8.0})
    assert page.fragments()["curves"].count("<circle") == 2


def test_the_curves_of_a_second_run_replace_those_of_the_first(checkout: Path) -> None:
    change_steps(checkout)
    page = LivePage(checkout)
    first = ({"step": 0, "fd": 9.0}, {"step": 5, "fd": 8.0})
    write_log(checkout, *first)
    before = page.fragments()["curves"]
    write_log(checkout, *first, {"step": 0, "fd": 7.0}, {"step": 5, "fd": 3.0})  # it is appended to
    after = page.fragments()["curves"]
    assert after == LivePage(checkout).fragments()["curves"] != before


def test_a_finished_training_shows_the_curve_of_its_output(checkout: Path) -> None:
    made = (checkout / "data/models/joint/curves.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in made]
    of_output = LivePage(checkout).fragments()["curves"]
    write_strip(checkout, 0)
    write_log(checkout, *rows[:-1], {**rows[-1], "fd": 12345.0})  # another run, then `dvc checkout`
    parts = LivePage(checkout).fragments()
    assert parts["curves"] == of_output
    assert parts["samples"].strip() == ""
    write_log(checkout, *rows[:-1], {**rows[-1], "lr/generator": 0.5})  # it logs more than it keeps
    parts = LivePage(checkout).fragments()
    assert parts["curves"] != of_output
    assert parts["samples"].strip() != ""


def test_settings_that_differ_from_the_commit(checkout: Path) -> None:
    page = LivePage(checkout)
    params = checkout / "params.yaml"
    change_steps(checkout)
    rows = re.findall("<td>(.*?)</td>", page.fragments()["settings"])
    assert rows == ["joint.steps", "300", "400"]
    params.write_text(
        json.dumps({**parse_yaml(params.read_bytes(), "params.yaml"), "run": {"seed": 77}})
    )
    rows = re.findall("<td>(.*?)</td>", page.fragments()["settings"])
    assert rows[-3:] == ["run.seed", "0", "77"]
    params.write_text("joint: [")
    assert "not YAML" in page.fragments()["settings"]  # while someone edits it
    git(checkout, "rm", "-q", "--cached", "params.yaml")
    git(checkout, "commit", "-q", "-m", "without")
    params.write_text("joint: {}")
    assert "git has no committed params.yaml here" in page.fragments()["settings"]


def test_text_from_files_is_escaped(checkout: Path) -> None:
    change_steps(checkout)
    write_log(checkout, {"step": 1, EVIL: 2.0})
    write_strip(checkout, 3)
    (checkout / "params.yaml").write_text(json.dumps({"joint": {EVIL: EVIL}}))
    text = LivePage(checkout).html()
    parsed = Parsed(text)
    assert parsed.tags.count("script") == 1
    assert "<script>alert" not in text
    assert parsed.without_alt == []
    assert all(link.startswith("data:image/png") or link == NO_ICON for link in parsed.links)
    assert "connect-src 'self'" in text


def test_the_page_in_one_file_asks_no_server(checkout: Path) -> None:
    change_steps(checkout)
    for step in range(3 * STRIPS):
        write_strip(checkout, step)
    text = LivePage(checkout).html(whole=True)
    assert "connect-src" not in text
    assert "data-part>" not in text
    data = strips_of(text)
    assert len(data["steps"]) == len(data["pictures"]) == STRIPS
    assert data["steps"][-1] == 3 * STRIPS - 1


def test_samples_of_every_measurement(checkout: Path) -> None:
    change_steps(checkout)
    page = LivePage(checkout)
    for step in (0, 200, 50):
        write_strip(checkout, step)
    data = strips_of(page.html())
    assert data["steps"] == [0, 50, 200]
    assert list(data["pictures"]) == ["200"]
    assert page.strip("joint", 50) != page.strip("joint", 0)


def test_a_picture_that_is_being_written_is_no_picture(checkout: Path) -> None:
    change_steps(checkout)
    page = LivePage(checkout)
    file = write_strip(checkout, 7)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert page.strip("joint", 7) is None
    file.write_bytes(b"x" * (LARGEST_STRIP + 1))
    assert page.strip("joint", 7) is None
    file.write_bytes(whole)
    assert page.strip("joint", 7)


@pytest.mark.parametrize("stage", ["../joint", "validate", "", "joint/../../.."])
def test_only_trainings_have_samples(checkout: Path, stage: str) -> None:
    write_strip(checkout, 7)
    assert LivePage(checkout).strip(stage, 7) is None
    assert LivePage(checkout).strip("joint", 8) is None


def test_a_row_of_the_table_of_stages() -> None:
    row = stage_row(StageProgress("joint", "running", 30, 120, left=754.0, memory=3 << 29))
    assert row["share"] == 25
    assert row["steps"] == "step 30 of 120"
    assert row["left"] == "about 13 min"
    assert row["memory"] == "1.50 GiB"
    assert stage_row(StageProgress("joint", "running", 0, 0))["share"] is None


def test_what_is_left_in_words() -> None:
    done, unknown = StageProgress("a", "done", seconds=5.0), StageProgress("b", "left")
    assert time_left([done]) == "All stages are done."
    assert time_left([done, unknown]).startswith("Nothing runs. Left: b;")
    assert time_left([done, unknown], dvc_runs=True).startswith("Left: b;")  # between stages
    ending = StageProgress("c", "running", left=0.2)
    assert time_left([ending, unknown]).startswith("Left: b;")


def test_git_is_not_needed(checkout: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "dvc.yaml").write_text((checkout / "dvc.yaml").read_text())
    page = LivePage(plain).html()
    assert "params.yaml" in page
    assert "shards" in page
