"""Test that `gear doctor` names what is missing and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gear.cli import main
from gear.commands import doctor
from gear.core.errors import InputError
from tests.support.repo import REPO
from tests.support.settings import edit_params, write_params


def test_a_checkout_lacks_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(doctor, "LEAST_DISK", 0)
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 0)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", name] for name in doctor.CHECKS]
    assert lines[-1] == "nothing is lacking: `dvc repro` runs the pipeline"


def test_what_a_run_needs_and_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    teacher = {"name": "dinov2", "input_size": 32, "path": "weights/dino", "sha256": "0" * 64}
    edit_params(
        tmp_path,
        data={"source": "folder", "root": "pictures"},
        teacher={"encoders": [{**teacher, "layer": -1, "spatial": "none"}]},
        host={"ranks": 3},
    )
    pins = '[tool.gear.pins]\npillow = "0.1"\nnothing-of-this-name = "1.0"\n'
    (tmp_path / "pyproject.toml").write_text(pins)
    monkeypatch.setattr(doctor, "LEAST_DISK", 1e18)
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 1e18)
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    lacking = {line.split()[1]: line for line in said.out.splitlines() if line[:5] == "lacks"}
    assert {*lacking} == {
        "packages", "memory", "disk", "checkout", "settings", "data", "weights"
    }  # fmt: skip
    assert "not 0.1; nothing-of-this-name none, not 1.0" in lacking["packages"]
    assert "does not divide by 3 ranks" in lacking["settings"]
    assert "pictures is not here: set it in params.yaml" in lacking["data"]
    assert "teacher.encoders.0: no weights/dino: download" in lacking["weights"]
    assert "end other programs" in lacking["memory"]
    assert "on a larger disk" in lacking["disk"]
    assert "`gear init FOLDER`" in lacking["checkout"]
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "free"), [("5000000000", 3_500_000_000), ("max", None), ("1000000", 0)]
)
def test_the_memory_of_a_container_is_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int | None
) -> None:
    monkeypatch.setattr(doctor, "CONTAINER", tmp_path)
    machine = doctor.free_memory()
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000000\ninactive_file 500000000\n")
    found = doctor.free_memory()
    assert found == pytest.approx(machine if free is None else min(free, machine), rel=0.05)


def test_a_portable_run_has_one_rank_however_many_gpus_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    edit_params(tmp_path, train={"portable": True, "bf16": False})
    monkeypatch.setattr("gear.launch._gpus", lambda host: 7)
    assert "a stage computes in one process on the CPU" in doctor.settings()
    edit_params(tmp_path, train={"portable": False})
    with pytest.raises(doctor.Lacks, match="does not divide by 7 ranks"):
        doctor.settings()


def test_a_broken_package_is_a_line_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "CHECKS", {"gpus": broken, "checkout": doctor.checkout})
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "lacks  gpus      ImportError: libcudart.so.13" in said
    assert "lacks  checkout  no git commit here" in said
    assert "git commit -m" in said


def test_compiled_blocks_need_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    edit_params(tmp_path, host={"compile": True})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="there is no no-such-compiler: install it"):
        doctor.settings()
    monkeypatch.setenv("CXX", sys.executable)
    assert "params.yaml is valid" in doctor.settings()


def test_without_git_the_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(doctor.Lacks, match="apt-get install git"):
        doctor.checkout()
