"""Test `gear compare` on experiments from DVC's queue."""

from __future__ import annotations

import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.support.runs import commit, dvc, gear, git, toy_run

SWEEP = ("-S", "joint.recipe=gear,llamagen_repa", "-S", "run.seed=range(3)")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout with six experiments from the queue: two recipes, three seeds each."""
    folder = toy_run(tmp_path_factory.mktemp("compare") / "checkout")
    before = (folder / "dvc.lock").read_bytes()
    dvc(folder, "exp", "run", "--queue", *SWEEP)
    dvc(folder, "exp", "run", "--run-all", "-q", "-j", "3")
    assert (folder / "dvc.lock").read_bytes() == before
    assert not git(folder, "status", "--porcelain")
    return folder


def experiments(folder: Path) -> dict[tuple[str, int], str]:
    """Return the names of the experiments by (recipe, seed)."""
    shown = csv.DictReader(io.StringIO(dvc(folder, "exp", "show", "--csv")))
    rows = [row for row in shown if row["rev"] not in ("workspace", "main")]
    return {(row["joint.recipe"], int(row["run.seed"])): row["Experiment"] for row in rows}


class Page(HTMLParser):
    """Collects what a page would fetch, and counts its charts."""

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
    """Return a table of the command's output as rows by first cell."""
    lines = text[text.index(title) :].split("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in lines)}


def test_a_queued_sweep_is_compared_by_arms_of_seeds(swept: Path) -> None:
    names = experiments(swept)
    assert len(names) == 6
    arms = [names[recipe, seed] for recipe in ("llamagen_repa", "gear") for seed in range(3)]
    done = gear(swept, "compare", *arms)
    assert done.returncode == 0, done.stderr
    # by hand: the baseline's mean, 250 - 0.26 step, ends at 172 after 300 steps
    # gear's mean, 250 - 0.51 step, reaches 172 after 152.9 steps
    speeds = rows_of(done.stdout, "joint steps to the baseline's last fd")
    assert speeds["recipe gear"][:2] == ["153", "1.96"]
    assert re.fullmatch(r"1\.\d+ to [12]\.\d+", speeds["recipe gear"][2])
    assert speeds["recipe llamagen_repa"][:2] == ["300", "1"]
    # seconds, where 300 steps take 30 s and 10 s
    assert [speeds["recipe gear"][-1], speeds["recipe llamagen_repa"][-1]] == ["15", "10"]
    assert rows_of(done.stdout, "Metrics")["fd"] == ["172.0 ± 3.0", "97.0 ± 3.0", "-75"]
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
    dvc(swept, "exp", "run", "--temp", "-q", "-n", "quiet", "-S", "+host.log_every=7")
    for arguments, words in (
        (["HEAD", "quiet"], "are one run: the same settings, code and seed"),
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


SAMPLING = """  sample:
    cmd: python make.py sample
    deps: [make.py, data/models/joint]
    params: [run.seed, sample]
    outs: [data/samples]
"""
SAMPLES = """
def sample():
    import numpy as np
    from gear.data.shards import write_samples

    images = np.full((4, 8, 8, 3), int(params["sample"]["guidance"]) * 50, np.uint8)
    captions = [f"<b>{i}</b>" for i in range(4)]
    write_samples(images, np.arange(4), captions, pathlib.Path("data/samples"))

globals()[sys.argv[1]]()
"""


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout whose last two commits differ in the guidance of their samples."""
    folder = toy_run(tmp_path_factory.mktemp("guided") / "checkout")
    pipeline = (folder / "dvc.yaml").read_text().replace("[evaluate]", "[evaluate, sample]")
    (folder / "dvc.yaml").write_text(pipeline + SAMPLING)
    code = (folder / "make.py").read_text()
    code = code.replace("\nglobals()[sys.argv[1]]()\n", SAMPLES)
    measured = '"seeds": params["run"]["seed"]'
    drawn = "\"seeds\": f\"{params['run']['seed']} * 9 + i\""
    (folder / "make.py").write_text(
        code.replace(measured, f'{drawn}, "guidance": params["sample"]["guidance"]')
    )
    settings = (folder / "params.yaml").read_text()
    for guidance in (1, 4):
        (folder / "params.yaml").write_text(f"{settings}sample: {{guidance: {guidance}.0}}\n")
        dvc(folder, "repro", "-q")
        commit(folder, f"guidance {guidance}")
    return folder


def test_samples_across_sampling_are_side_by_side(guided: Path) -> None:
    refused = gear(guided, "compare", "HEAD~1", "HEAD")
    assert refused.returncode == 2
    assert "guidance: 1.0 against 4.0. Only settings of sampling differ" in refused.stderr
    done = gear(guided, "compare", "--across", "sample", "HEAD~1", "HEAD")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Samples were drawn with different settings (guidance)")
    assert rows_of(done.stdout, "Metrics")["fd"] == ["100", "100", "+0"]
    assert "gear (guidance 4)" in done.stdout
    page = (guided / done.stdout.rsplit("page: ", 1)[1].strip()).read_text().replace("\xa0", " ")
    assert not Page(page).fetched
    assert "recipe gear (guidance" not in page  # both arms have the same recipe
    pictures = re.findall(r'<img alt="([^"]*)" src="([^"]*)"', page)
    assert [alt for alt, _ in pictures[:2]] == [
        f"&lt;b&gt;{i}&lt;/b&gt;, seed {i}: gear (guidance 1)" for i in range(2)
    ]
    assert pictures[4][0] == "&lt;b&gt;0&lt;/b&gt;, seed 0: gear (guidance 4)"
    assert pictures[0][1] == pictures[1][1] != pictures[4][1]
    assert "gear (guidance 4) equals gear (guidance 1) in every curve." in page


def test_samples_that_are_not_in_the_cache_are_a_line(guided: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(guided, tmp_path / "checkout", symlinks=True))
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    (md5,) = (out["md5"] for out in lock["stages"]["sample"]["outs"])
    (folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    done = gear(folder, "compare", "--across", "sample", "HEAD~1", "HEAD")
    assert done.returncode == 0, done.stderr
    page = (folder / done.stdout.rsplit("page: ", 1)[1].strip()).read_text()
    (line,) = re.findall("<li>(data/samples.*)</li>", page)
    assert line.startswith("data/samples of HEAD is not in DVC&#39;s cache: ")
    assert "`dvc fetch --all-commits data/samples` brings it" in line
    assert len(re.findall(r'<img alt="[^"]*guidance 1\)"', page)) == 4


def test_a_workspace_that_was_edited_says_so(guided: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(guided, tmp_path / "checkout", symlinks=True))
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("guidance: 4.0", "guidance: 7.0"))
    done = gear(folder, "compare", "--across", "sample", "HEAD~1", "workspace")
    assert done.returncode == 0, done.stderr
    assert "workspace: not the committed settings: sample.guidance 4.0 → 7.0" in done.stdout
    assert (
        "made with other settings, `dvc repro`: sample.guidance 4.0 in sample, now 7.0"
        in done.stdout
    )
    assert "gear (guidance 4)" in done.stdout  # the measured guidance, not the edited one
