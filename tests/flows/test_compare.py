"""Experiments by DVC's queue, and `gear compare` on them."""

from __future__ import annotations

import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.runs import commit, dvc, gear, git, toy_run

SWEEP = ("-S", "joint.recipe=gear,llamagen_repa", "-S", "run.seed=range(3)")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with six experiments, two recipes by three seeds, made by the queue."""
    folder = toy_run(tmp_path_factory.mktemp("compare") / "checkout")
    before = (folder / "dvc.lock").read_bytes()
    dvc(folder, "exp", "run", "--queue", *SWEEP)
    dvc(folder, "exp", "run", "--run-all", "-q", "-j", "3")
    assert (folder / "dvc.lock").read_bytes() == before
    assert not git(folder, "status", "--porcelain")
    return folder


def experiments(folder: Path) -> dict[tuple[str, int], str]:
    """(recipe, seed) to the name of the experiment."""
    shown = csv.DictReader(io.StringIO(dvc(folder, "exp", "show", "--csv")))
    rows = [row for row in shown if row["rev"] not in ("workspace", "main")]
    return {(row["joint.recipe"], int(row["run.seed"])): row["Experiment"] for row in rows}


class Page(HTMLParser):
    """What a page would fetch, and how many charts it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.charts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = [value or "" for name, value in attrs if name in ("src", "href")]
        self.fetched += [value for value in named if not value.startswith("data:")]
        self.charts += "data-chart" in dict(attrs)


def rows_of(text: str, title: str) -> dict[str, list[str]]:
    """A table of the command's output, by first cell."""
    lines = text[text.index(title) :].split("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in lines)}


def test_a_queued_sweep_is_compared_by_arms_of_seeds(swept: Path) -> None:
    names = experiments(swept)
    assert len(names) == 6
    arms = [names[recipe, seed] for recipe in ("llamagen_repa", "gear") for seed in range(3)]
    done = gear(swept, "compare", *arms)
    assert done.returncode == 0, done.stderr
    # by hand: baseline 250 - 0.26 s ends at 172 after 300 steps; 250 - 0.51 s is there after 152.9
    speeds = rows_of(done.stdout, "joint steps to the baseline's last fd")
    assert speeds["recipe gear"][:2] == ["153", "1.96"]
    assert re.fullmatch(r"1\.\d+ to [12]\.\d+", speeds["recipe gear"][2])
    assert speeds["recipe llamagen_repa"][:2] == ["300", "1"]
    assert [speeds["recipe gear"][-1], speeds["recipe llamagen_repa"][-1]] == [
        "15",
        "10",
    ]  # of 30 s and 10 s for 300 steps
    assert rows_of(done.stdout, "Metrics")["fd"] == ["172 ± 3", "97 ± 3", "-75"]
    assert rows_of(done.stdout, "Cost, seconds")["joint"] == ["10.0", "30.0"]
    page = swept / done.stdout.rsplit("page: ", 1)[1].strip()
    parsed = Page(page.read_text())
    assert parsed.charts == 1
    assert not parsed.fetched
    assert "recipe llamagen_repa" in page.read_text()
    again = gear(swept, "compare", *arms)
    assert again.stdout == done.stdout
    assert page.read_text().count("<tr>") > 10


def test_one_seed_has_no_interval_and_unknown_cost_is_a_dash(swept: Path) -> None:
    names = experiments(swept)
    for file in (swept / ".gear/costs").glob("shards-*"):
        file.unlink()
    done = gear(swept, "compare", "workspace", names["llamagen_repa", 0])
    assert done.returncode == 0, done.stderr
    assert "none: needs two seeds in both arms" in done.stdout
    assert "not in 300" in done.stdout
    costs = rows_of(done.stdout, "Cost, seconds")
    assert costs["joint"] == ["30.0", "10.0"]
    assert costs["shards"] == ["-", "-"]
    assert costs["together"] == ["-", "-"]


def test_what_cannot_be_compared_is_refused(swept: Path, tmp_path: Path) -> None:
    names = experiments(swept)
    gear_0, repa_0 = names["gear", 0], names["llamagen_repa", 0]
    dvc(swept, "exp", "run", "--temp", "-q", "-n", "small", "-S", "evaluate.size=32")
    dvc(swept, "exp", "run", "--temp", "-q", "-n", "fewer", "-S", "data.n=2")
    for arguments, words in (
        (
            [gear_0, "small"],
            f"fd of {gear_0} and small: measured under different protocols, not comparable: "
            "size: 64 against 32",
        ),
        (
            [gear_0, "fewer"],
            f"conditions of {gear_0} and fewer: measured under different protocols, "
            "not comparable: data:",
        ),
        ([gear_0, "HEAD", "workspace"], "are one run: the same settings, code and seed"),
        ([gear_0], "name at least two"),
        ([gear_0, "no-such"], "no experiment or revision 'no-such'"),
    ):
        done = gear(swept, "compare", *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "-q", str(swept), str(fresh))
    done = gear(fresh, "compare", "HEAD", "workspace")
    assert done.returncode == 2
    assert "of HEAD is not in this checkout's DVC cache" in done.stderr
    assert "dvc fetch" in done.stderr
    git(fresh, "fetch", "-q", "origin", "refs/exps/*:refs/exps/*")
    done = gear(fresh, "compare", repa_0, gear_0)
    assert done.returncode == 2
    assert f"`dvc exp pull origin {repa_0}`" in done.stderr


def test_a_commit_without_metrics_is_refused(swept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(swept, tmp_path / "checkout", symlinks=True))
    (folder / "reports/protocols.json").unlink()
    commit(folder, "no metrics")
    done = gear(folder, "compare", "HEAD", "HEAD~1")
    assert done.returncode == 2
    assert "HEAD has no reports/protocols.json: run `dvc repro`" in done.stderr
