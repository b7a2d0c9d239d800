"""Test `gear study`: what runs, what is skipped, and what a kill or a failure leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.pipeline import experiment
from gear.core.errors import InputError
from gear.runs import costs
from gear.runs.revision import find_revision
from gear.runs.study_check import refuse_lost_warm_up
from gear.runs.study_file import load_study
from gear.runs.study_records import keep_record
from tests.support.prefect_server import latest
from tests.support.runs import commit, dvc, environment, gear
from tests.support.studies import STUDY, ran, study_checkout
from tests.support.wait import wait_until

PAGE = "docs/studies/toy/index.html"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout in which nothing ran; tests copy it."""
    return study_checkout(tmp_path_factory.mktemp("fresh") / "checkout")


@pytest.fixture(scope="module")
def studied(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a checkout after a study whose first seed ended last, and the study's output."""
    folder = shutil.copytree(fresh, tmp_path_factory.mktemp("study") / "checkout", symlinks=True)
    (folder / "late").touch()
    done = gear(folder, "study", "studies/toy.yaml", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_arms_of_a_seed_share_the_warm_up_and_threads_are_divided(
    studied: tuple[Path, str],
) -> None:
    lines = [line.split() for line in ran(studied[0])]
    assert sorted(line[:3:2] for line in lines if line[0] == "tokenizer") == [
        ["tokenizer", "0"],
        ["tokenizer", "1"],
    ]
    assert len([line for line in lines if line[0] == "joint"]) == 4
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert {tuple(line[3:]) for line in lines} == {(share, share)}, "params.yaml says 7"


def test_the_log_of_each_run_is_named_when_it_starts(studied: tuple[Path, str]) -> None:
    logs = dict(re.findall(r"^(\S+): started, log (\S+)$", studied[1], re.MULTILINE))
    assert set(logs) == {"slow-0", "fast-0", "slow-1", "fast-1"}
    for name, log in logs.items():
        assert name in (studied[0] / log).read_text()


def test_the_verdict_counts_what_was_measured(studied: tuple[Path, str]) -> None:
    """Test ratios of speed: `fast` falls by 4.0 and 4.1 a step, `slow` by 2.0 and 2.1."""
    mean = (4.0 / 2.0 * 4.1 / 2.1) ** 0.5
    assert f"{mean:.2f}x fewer steps" in studied[1]
    page = (studied[0] / PAGE).read_text()
    assert "4 of 4 runs have finished" in page
    assert "<b>Toy</b>" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_what_is_done_is_not_done_again_in_a_new_clone_either(
    studied: tuple[Path, str], tmp_path: Path
) -> None:
    folder, printed = studied
    before = (folder / PAGE).read_bytes()
    commit(folder, "study")
    subprocess.run(["git", "clone", "-q", str(folder), str(tmp_path / "clone")], check=True)
    again = gear(tmp_path / "clone", "study", "studies/toy.yaml")
    assert again.returncode == 0, again.stderr
    assert not ran(tmp_path / "clone")
    assert (tmp_path / "clone" / PAGE).read_bytes() == before
    assert again.stdout in printed


def test_a_record_names_the_machine_that_trained_if_it_is_known(
    studied: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(studied[0], tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(folder)
    study = load_study(Path("studies/toy.yaml"))
    (run,) = (run for run in study.runs if run.name == "fast-1")
    revision = find_revision(run.experiment, folder)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert keep_record(study, run, revision, {}).provenance == {"threads": share}
    cost = costs.record_path(folder, revision.lock()["joint"])
    cost.parent.mkdir(parents=True, exist_ok=True)
    cost.write_text('{"seconds": 5.0, "machine": {"threads": 99}}')
    assert keep_record(study, run, revision, {}).provenance == {"threads": 99}


@pytest.mark.slow
def test_a_run_made_again_has_the_numbers_of_its_record(studied: tuple[Path, str]) -> None:
    folder, _ = studied
    file = folder / "docs/studies/toy/runs/fast-1.json"
    before = json.loads(file.read_text())
    file.unlink()
    (name,) = (n for n in dvc(folder, "exp", "list", "-A", "--name-only").split() if "fast-1" in n)
    dvc(folder, "exp", "remove", name)
    assert gear(folder, "study", "studies/toy.yaml", "--only", "fast-1").returncode == 0
    after = json.loads(file.read_text())
    for values in (before, after):
        values.pop("commit")
        values.pop("seconds")
    assert after == before


def test_a_run_that_no_record_of_its_seed_is_like_is_refused_before_it_starts(
    tmp_path: Path,
) -> None:
    folder = study_checkout(tmp_path / "checkout")
    pipeline = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(pipeline.replace("[make.py, data/m", "[gear/a.txt, data/m", 1))
    (folder / "gear").mkdir()
    (folder / "gear/a.txt").write_text("code")
    commit(folder, "code")
    cores = len(os.sched_getaffinity(0))
    first = gear(folder, "study", "studies/toy.yaml", "--only", "slow-0", "--jobs", str(cores))
    assert first.returncode == 0, first.stderr
    before = ran(folder)
    words = ["study", "studies/toy.yaml", "--only", "fast-0", "--dry-run", "--jobs"]
    assert gear(folder, *words, str(cores)).returncode == 0, "the same code and threads"

    file = folder / "docs/studies/toy/runs/slow-0.json"
    record = json.loads(file.read_text())
    for changes, message in (
        ({"threads": cores + 1}, f"seed 0 has records of {cores + 1} threads, and this would use"),
        ({"hardware": "an abacus"}, "`rm docs/studies/toy/runs/slow-0.json`"),
    ):
        file.write_text(json.dumps(record | {"provenance": record["provenance"] | changes}))
        done = gear(folder, *words, str(cores))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
    file.write_text(json.dumps(record))
    if cores > 1:
        for what in (words[:4], words[:-1]):
            done = gear(folder, *what, "--jobs", "1")
            assert done.returncode == 2
            assert f"records of 1 thread, and this would use {cores}, so" in done.stderr
            assert f"give --jobs {cores}" in done.stderr
    (folder / "gear/a.txt").write_text("other code")
    assert "records of other code" in gear(folder, *words, str(cores)).stderr
    assert ran(folder) == before


def test_a_locked_warm_up_that_the_cache_lacks_is_made_once_for_all_arms(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test a clone of a finished run on another machine, whose warm-up has other bits here."""
    folder = shutil.copytree(fresh, tmp_path / "checkout", symlinks=True)
    with monkeypatch.context() as outside:
        outside.setenv("GEAR_STATES", str(folder / "a/b/c"))
        dvc(folder, "repro", "tokenizer")
        commit(folder, "run")
        lock = folder / "dvc.lock"
        (md5,) = set(re.findall(r"\w+(?=\.dir)", lock.read_text()))
        lock.write_text(lock.read_text().replace(md5, "0" * len(md5)))
        commit(folder, "run elsewhere")
        shutil.rmtree(folder / "data")

        done = gear(folder, "study", "studies/toy.yaml", "--only", "slow-0", "fast-0")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "first `dvc pull tokenizer` or `dvc repro tokenizer`" in done.stderr
        with monkeypatch.context() as inside:
            inside.chdir(folder)
            other_seed = [run for run in load_study(Path("studies/toy.yaml")).runs if run.seed]
            refuse_lost_warm_up(other_seed, folder)  # whose settings dvc.lock does not have
        dvc(folder, "repro", "tokenizer")
    before = ran(folder)
    done = gear(folder, "study", "studies/toy.yaml", "--only", "slow-0", "fast-0")
    assert done.returncode == 0, done.stderr
    assert not [line for line in ran(folder)[len(before) :] if line.startswith("tokenizer")]


def test_a_shallow_clone_is_refused_before_the_first_run(fresh: Path, tmp_path: Path) -> None:
    """Test a clone in which `dvc exp run` would succeed and leave no experiment."""
    whole = shutil.copytree(fresh, tmp_path / "whole", symlinks=True)
    (whole / "notes").touch()
    commit(whole, "notes")
    clone = ["git", "clone", "--quiet", "--depth", "1", f"file://{whole}", str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    done = gear(tmp_path / "clone", "study", "studies/toy.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        f"gear study: {tmp_path / 'clone'}: in a shallow clone DVC keeps no experiment: "
        "run `git fetch --unshallow`\n"
    )
    with pytest.raises(InputError, match="in a shallow clone"):
        experiment.fn("one", [], [], tmp_path / "clone")
    assert "a shallow clone: for `dvc exp run`" in gear(tmp_path / "clone", "doctor").stdout


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"\xff", b'{"arm": 1}', b'{"curve": [{"step": "x"}]}'], ids=repr
)
def test_a_damaged_record_is_one_line(fresh: Path, content: bytes) -> None:
    file = fresh / "docs/studies/toy/runs/slow-0.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    done = gear(fresh, "study", "studies/toy.yaml", "--page")
    shutil.rmtree(fresh / "docs")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "docs/studies/toy/runs/slow-0.json" in done.stderr


def test_a_killed_study_goes_on_to_the_same_record(
    studied: tuple[Path, str], tmp_path: Path
) -> None:
    folder = study_checkout(tmp_path / "checkout")
    (folder / "slow").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "gear", "study", "studies/toy.yaml", "--only", "slow-0", "--jobs=1"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    assert wait_until(lambda: any(line.startswith("joint") for line in ran(folder)), 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "slow").unlink()
    assert wait_until(lambda: not _processes_in(folder), 30), "nothing is left behind"
    assert gear(folder, "study", "studies/toy.yaml", "--only", "slow-0").returncode == 0
    (record, picture) = sorted((folder / "docs/studies/toy/runs").iterdir())
    other = studied[0] / "docs/studies/toy/runs"
    assert picture.read_bytes() == (other / picture.name).read_bytes()
    for name in ("curve", "warm_up", "metrics", "settings", "flops"):
        values = [
            json.loads((where / record.name).read_text())[name] for where in (record.parent, other)
        ]
        assert values[0] == values[1], name
    assert sum(line.startswith("tokenizer") for line in ran(folder)) == 1, "taken from the cache"


def test_a_failed_run_keeps_no_other_from_running(tmp_path: Path) -> None:
    folder = study_checkout(
        tmp_path / "checkout", STUDY.replace("  slow:", "  lost: {joint.recipe: ste}\n  slow:")
    )
    (folder / "broken").touch()
    done = gear(folder, "study", "studies/toy.yaml", "--only", "lost-0", "slow-0")
    assert done.returncode == 1
    assert "1 of 2 runs failed; lost-0: gear joint: the codebook collapsed" in done.stderr
    assert "slow-0: finished" in done.stdout
    assert "the codebook collapsed" in (folder / PAGE).read_text()


def test_a_dry_run_runs_nothing_and_says_what_would(fresh: Path) -> None:
    folder = fresh
    done = gear(folder, "study", "studies/toy.yaml", "--dry-run")
    assert "4 runs, 0 finished, 4 to run" in done.stdout
    assert not ran(folder)
    assert not (folder / "docs").exists()


def test_a_record_of_other_settings_is_neither_used_nor_replaced(
    studied: tuple[Path, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(studied[0], tmp_path / "checkout", symlinks=True)
    file = folder / "studies/toy.yaml"
    file.write_text(file.read_text().replace("joint.fd_every: 2", "joint.fd_every: 3"))
    before = (folder / PAGE).read_bytes()
    for words in ([], ["--page"], ["--dry-run"]):
        done = gear(folder, "study", "studies/toy.yaml", *words)
        assert done.returncode == 2
        assert "slow-0.json: is of joint.fd_every 2, and studies/toy.yaml now has 3" in done.stderr
    assert (folder / PAGE).read_bytes() == before


def test_a_changed_prediction_is_said(studied: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(studied[0], tmp_path / "checkout", symlinks=True)
    assert "were last changed" not in (folder / PAGE).read_text()
    file = folder / "studies/toy.yaml"
    file.write_text(file.read_text().replace("arm: fast, than: [slow]", "arm: slow, than: [fast]"))
    assert gear(folder, "study", "studies/toy.yaml", "--page").returncode == 0
    assert "4 of the runs ended before" in (folder / PAGE).read_text()


def test_a_flow_runs_it_and_publishes_the_verdicts(
    server: dict[str, str], studied: tuple[Path, str]
) -> None:
    code = "from flows.study import study; study('studies/toy.yaml', jobs=1)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=studied[0], env=server, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "H1 supported" in latest(server, "study", 1)[0]["study"]


def _processes_in(folder: Path) -> list[Path]:
    """Return the processes that work in a folder or in DVC's temporary copies inside it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in os.readlink(entry / "cwd"):
                found.append(entry)
        except OSError:
            continue
    return found
