"""Test `gear verify` on real DVC runs: reproduced, not reproduced, or undecidable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gear.process import prepare_child
from gear.runs import costs
from gear.runs.revision import Cache, content_md5, find_revision
from tests.support.runs import commit, dvc, environment, gear, git, toy_run
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run, which tests must not change."""
    return toy_run(tmp_path_factory.mktemp("verify") / "checkout")


@pytest.fixture
def checkout(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run, with its DVC cache."""
    return Path(shutil.copytree(finished, tmp_path / "checkout", symlinks=True))


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def state(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of a checkout, except .git and DVC's temporary files."""
    files = (
        p
        for p in folder.rglob("*")
        if p.is_file() and not {".git", "tmp"} & set(p.relative_to(folder).parts)
    )
    return {str(p): p.read_bytes() for p in files}


def scratches(temporary: Path) -> list[Path]:
    return list(temporary.glob("gear-verify-*"))


def test_hashes_are_those_of_dvc(finished: Path) -> None:
    lock = find_revision("HEAD", finished).lock()
    outs = {path: md5 for stage in lock.values() for path, md5 in stage.outs.items()}
    assert len(outs) == 4
    assert outs == {path: content_md5(finished, path) for path in outs}


def test_a_deterministic_run_is_reproduced_and_the_checkout_stays_as_it_is(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    before = state(checkout)
    done = gear(checkout, "verify", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks: made again, same bytes: shards, joint, evaluate\n" in done.stdout
    assert [
        line for line in done.stdout.splitlines() if "made again" in line and line.endswith("same")
    ]
    assert state(checkout) == before
    assert not git(checkout, "status", "--porcelain")
    assert not scratches(tmp_path / "t")
    # written by the first run; nothing ran again in this folder
    assert (checkout / "ran").read_text().split() == ["shards", "joint", "evaluate"]


def test_trainings_run_again_only_when_named(checkout: Path) -> None:
    made = "made again, same bytes"
    agree = "recorded hashes agree, nothing was run"
    assert f"{made}: shards, evaluate; {agree}: joint" in gear(checkout, "verify").stdout
    only_hashes = gear(checkout, "verify", "HEAD", "--stages").stdout
    assert f"{agree}: shards, joint, evaluate" in only_hashes
    assert made not in only_hashes
    joint = gear(checkout, "verify", "HEAD", "--stages", "joint").stdout
    assert f"{made}: joint; {agree}: shards, evaluate" in joint


def test_what_is_not_in_the_cache_is_not_called_verified(checkout: Path) -> None:
    (out,) = find_revision("HEAD", checkout).lock()["joint"].outs.items()
    path, md5 = out
    cached = checkout / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.chmod(0o644)
    cached.unlink()
    shutil.rmtree(checkout / path)
    done = gear(checkout, "verify", "HEAD", "--stages")
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"not in the cache, not looked at: {path}" in done.stderr
    done = gear(checkout, "verify", "HEAD", "--stages", "shards")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made again, same bytes: shards; " in done.stdout
    assert "nothing was run: joint" not in done.stdout
    assert gear(checkout, "verify", "HEAD", "--stages", "joint").returncode == 0


def test_random_output_is_found_and_does_not_spoil_the_stages_after_it(checkout: Path) -> None:
    rewrite(checkout / "make.py", 'write_bytes(b"weights")', "write_bytes(os.urandom(7))")
    dvc(checkout, "repro", "-q")
    commit(checkout, "random")
    done = gear(checkout, "verify", "--all")
    assert done.returncode == 1
    assert "not reproduced: 1 of" in done.stderr
    differing = [line.split() for line in done.stdout.splitlines() if line.endswith("DIFFERS")]
    assert [line[:2] for line in differing] == [["joint", "data/models/joint"]]


def test_stages_do_not_see_the_checkout_of_the_caller(checkout: Path) -> None:
    """Test that the clone ignores PYTHONPATH, which names another gear here."""
    rewrite(
        checkout / "make.py",
        'write_bytes(b"weights")',
        'write_text(os.environ.get("PYTHONPATH", ""))',
    )
    dvc(checkout, "repro", "-q")
    commit(checkout, "of the caller")
    assert (checkout / "data/models/joint/weights").read_text()
    done = gear(checkout, "verify", "--stages", "joint")
    assert done.returncode == 1
    assert "not reproduced: 1 of" in done.stderr


@pytest.mark.parametrize(
    ("factor", "code", "word"),
    [("1.0001", 0, "within tolerance"), ("1.3", 1, "reports/metrics.json made again: fd")],
)
def test_other_hardware_is_judged_by_metrics(
    checkout: Path, factor: str, code: int, word: str
) -> None:
    """Test another class of machine, whose rounding is set by the variable ROUNDING."""
    rewrite(
        checkout / "make.py",
        'write_bytes(b"weights")',
        'write_bytes(os.environ.get("ROUNDING", "1").encode())',
    )
    rewrite(
        checkout / "make.py",
        '(models / "weights").stat().st_size / 7',
        'float((models / "weights").read_text())',
    )
    dvc(checkout, "repro", "-q")
    commit(checkout, "rounding")
    for stage in find_revision("HEAD", checkout).lock().values():
        file = costs.record_path(checkout, stage)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"seconds": 1, "hardware": "another processor, 4 cores"}))
    command = [sys.executable, "-m", "gear", "verify", "--all"]
    done = subprocess.run(
        command,
        cwd=checkout,
        env={**environment(), "ROUNDING": factor},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert word in done.stdout, done.stdout + done.stderr
    assert "metrics decide" in done.stdout
    assert "data/models/joint made again on other hardware" in done.stdout
    command = [*command[:-1], "--stages", "joint"]
    done = subprocess.run(
        command,
        cwd=checkout,
        env={**environment(), "ROUNDING": factor},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "no metric was measured again" in done.stderr


def test_a_commit_that_is_not_what_ran_is_told_apart(checkout: Path) -> None:
    rewrite(checkout / "make.py", "import yaml", "import yaml  # changed")
    rewrite(checkout / "params.yaml", "n: 3", "n: 4")
    commit(checkout, "changed and not run")
    done = gear(checkout, "verify", "--stages")
    lines = [
        " ".join(line.split()) for line in done.stdout.splitlines() if line.endswith("DIFFERS")
    ]
    assert done.returncode == 1
    assert "shards setting data.n 3 4 DIFFERS" in lines
    assert any(line.startswith("joint code make.py") for line in lines)
    assert gear(checkout, "verify", "HEAD~1", "--stages").returncode == 0


def test_ignored_files_and_pins_in_other_files_are_known(checkout: Path) -> None:
    (checkout / "code").mkdir()
    (checkout / "code/model.py").write_text("")
    (checkout / "code/config.py").write_text("")
    (checkout / ".dvcignore").write_text("code/config.py\n")
    (checkout / "pyproject.toml").write_text('[pins]\ntorch = "2.14"\n')
    rewrite(checkout / "dvc.yaml", "deps: [make.py]", "deps: [make.py, code]")
    rewrite(checkout / "dvc.yaml", "params: [data]", "params: [data, pyproject.toml: [pins.torch]]")
    dvc(checkout, "repro", "-q")
    (checkout / "code/config.py").write_text("# changes nothing")
    commit(checkout, "with a package and a pin")
    assert gear(checkout, "verify", "--stages").returncode == 0
    rewrite(checkout / "pyproject.toml", "2.14", "2.15")
    commit(checkout, "another pin")
    assert "setting pins.torch" in gear(checkout, "verify", "--stages").stdout


def test_data_edited_by_hand_is_found(checkout: Path) -> None:
    file = checkout / "data/shards/train/0.txt"
    file.unlink()
    file.write_text("another row")
    done = gear(checkout, "verify", "--stages")
    assert done.returncode == 1
    assert "first: shards, data/shards in the checkout" in done.stderr


def test_damaged_cache_is_found(checkout: Path) -> None:
    lock, cache = find_revision("HEAD", checkout).lock(), Cache(checkout)
    weights = cache.path(cache.files(lock["joint"].outs["data/models/joint"])["weights"])
    weights.chmod(0o644)
    weights.write_bytes(b"weightz")
    done = gear(checkout, "verify", "--stages")
    assert done.returncode == 1
    assert "damaged: weights" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such"], "no experiment or revision 'no-such'"),
        (
            ["--stages", "nothing"],
            "no stage 'nothing' in dvc.lock: there are shards, joint, evaluate",
        ),
        (["workspace"], "the workspace is no revision"),
        (["HEAD~1"], "no experiment or revision 'HEAD~1'"),
    ],
)
def test_bad_input_is_exit_2(finished: Path, arguments: list[str], words: str) -> None:
    done = gear(finished, "verify", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_uncommitted_changes_and_missing_contents_are_exit_2(checkout: Path) -> None:
    rewrite(checkout / "make.py", "import yaml", "import yaml  # changed")
    done = gear(checkout, "verify")
    assert done.returncode == 2
    assert "changed and not committed: make.py: commit first" in done.stderr
    git(checkout, "checkout", "-q", "make.py")
    shutil.rmtree(checkout / ".dvc/cache")
    done = gear(checkout, "verify")
    assert done.returncode == 2
    assert "stage evaluate reads data/models/joint" in done.stderr
    assert "`dvc pull`" in done.stderr
    done = gear(checkout, "verify", "--stages", "shards")  # this stage reads only code
    assert done.returncode == 0
    assert "not in the cache, not looked at" in done.stdout
    (checkout / "dvc.lock").unlink()
    commit(checkout, "no lock")
    assert "HEAD has no dvc.lock" in gear(checkout, "verify", "HEAD").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_verification_leaves_nothing_behind(
    checkout: Path, tmp_path: Path, number: int
) -> None:
    marker = f"marker-{os.getpid()}-{number}"
    rewrite(checkout / "make.py", "def shards():", f"def shards():\n    WAIT = '{marker}'")
    dvc(checkout, "repro", "-q")
    rewrite(checkout / "make.py", f"WAIT = '{marker}'", "__import__('time').sleep(300)")
    commit(checkout, "slow")
    (tmp_path / "t").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "gear", "verify"],
        cwd=checkout,
        env={**environment(), "TMPDIR": str(tmp_path / "t")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=prepare_child,  # a shell lets its background jobs ignore SIGINT
    )
    assert wait_until(lambda: [*(tmp_path / "t").glob("*/checkout/ran")], 60)
    inside = scratches(tmp_path / "t")[0]
    process.send_signal(number)
    process.communicate(timeout=40)
    assert process.returncode in (130, 143)
    assert not scratches(tmp_path / "t")
    assert not [p for p in Path("/proc").glob("[0-9]*/cwd") if str(inside) in _link(p)]


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
