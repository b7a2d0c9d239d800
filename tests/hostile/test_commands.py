"""Test that failing commands show no traceback and never report success."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gear import cli, paths
from gear.cli import main
from gear.data.array_file import new_array_file
from tests.support.commands import ENV
from tests.support.hostile import refused
from tests.support.processes import is_alive
from tests.support.repo import REPO
from tests.support.settings import edit_params, tiny_settings, write_params
from tests.support.wait import wait_until

WORDS = {  # arguments with which a command passes its checks
    "preset": ("tiny",),
    "generate": ("--out", "x.png"),
    "import": ("a.pt", "b"),
    "export": ("a", "b.pt"),
    "compare": ("a", "b"),
    "study": ("a.yaml",),
    "reconstruct": ("a.png",),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [*cli.STAGES, *cli.COMMANDS])
def test_a_bug_in_any_command_is_one_line_and_a_file(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("a \x1b[31mbug\nof two lines")

    if command in cli.STAGES:
        monkeypatch.setattr(cli, "run_stage", fail)
    else:
        monkeypatch.setattr(cli._module(command), "run", fail)
    assert main([command, *WORDS.get(command, ())]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gear {command}: unforeseen error, KeyError: ")
    assert not [c for c in line if unicodedata.category(c) == "Cc"]
    (log,) = Path(".gear/logs").glob(f"crash-gear-{command}-*.log")
    assert str(log) in line
    assert "raise KeyError" in log.read_text()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "data/shards/train/0.parquet"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("the writer gave up") from cause

    monkeypatch.setattr(cli, "run_stage", fail)
    assert main(["ingest"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no space left" in line


def test_a_crash_without_a_place_for_its_log_is_still_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    Path(".gear").write_text("a file where a folder should be")
    monkeypatch.setattr(cli, "run_stage", lambda *_: 1 / 0)
    assert main(["ingest"]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError" in line
    assert f"its traceback is in {elsewhere}" in line
    (log,) = elsewhere.iterdir()
    assert "1 / 0" in log.read_text()


def test_a_full_disk_during_ingest_leaves_nothing_half_written() -> None:
    """Limit files of a child process to 20 kB, which fails like a full disk."""
    write_params(Path(), tiny_settings(host={"workers": 1}))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from gear.cli import main; sys.exit(main(['ingest']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True)
    assert done.returncode in (2, 70)
    assert done.stderr.count("\n") == 1
    assert not paths.SHARDS.exists()
    assert not [*Path("data").glob("*")]


def test_the_space_of_an_array_is_reserved_before_it_is_written(tmp_path: Path) -> None:
    """Test what keeps a full disk from killing the process by SIGBUS in a memory map."""
    array = new_array_file(tmp_path / "a.npy", np.float16, (1000, 1000))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= array.nbytes
    array[3] = 1
    array.flush()
    assert np.load(tmp_path / "a.npy")[3].sum() == 1000


def test_a_closed_stdout_is_no_success() -> None:
    write_params(Path(), tiny_settings(host={"workers": 1}))
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "gear", "ingest"],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait(60) == 141
    assert errors == ""


def test_a_training_whose_reader_goes_away_saves_its_state(prepared: Path) -> None:
    shutil.copytree(prepared / "data/shards", "data/shards")
    write_params(Path(), tiny_settings(host={"workers": 1, "log_every": 1}))
    process = subprocess.Popen(
        [sys.executable, "-m", "gear", "tokenizer"], env=ENV, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 141
    (latest,) = Path(".gear/tokenizer").glob("*/latest")
    assert latest.read_text().startswith("step-")
    done = subprocess.run(
        [sys.executable, "-m", "gear", "tokenizer"], env=ENV, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stderr


def test_a_killed_ingest_leaves_no_decoder_behind() -> None:
    Path("root/cats").mkdir(parents=True)
    for number in range(400):
        os.mkfifo(f"root/cats/{number}")  # listing them takes a moment
    code = (
        "import sys, time\n"
        "from gear.core.host_config import HostConfig\n"
        "from gear.ingest import fan_out\n"
        "from gear.ingest.records import EncodedSample\n"
        "def samples():\n"
        "    while True: yield EncodedSample('a', 'a', 'a', b'x')\n"
        "if __name__ == '__main__':\n"
        "    for n, _ in enumerate(fan_out.decode_samples(samples(), 32, 'png', HostConfig())):\n"
        "        if n == 200: print('decoding', flush=True)\n"
    )
    Path("ingest_marker.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "ingest_marker.py"], env=ENV, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "decoding\n"
    children = _children(process.pid)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert wait_until(lambda: not [pid for pid in children if is_alive(pid)], 15)


def _children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in listed]


@pytest.mark.parametrize("stage", [name for name in cli.STAGES if name != "ingest"])
@pytest.mark.parametrize("with_pipeline", [True, False])
def test_a_stage_in_an_unfinished_checkout_says_what_to_run(
    stage: str, with_pipeline: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(Path())
    if with_pipeline:
        Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    refused(capsys, stage, says=("dvc repro",))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data/shards/manifest.json", b"["),
        ("data/shards/manifest.json", b"[]"),
        ("data/shards/manifest.json", b'{"train": "many"}'),
        ("data/shards/manifest.json", b"\xff"),
        ("data/shards/train/00000.parquet", b"PAR1 junk"),
        ("data/shards/train/00000.parquet", b""),
        ("data/shards/val/00000.parquet", None),
    ],
)
def test_damaged_shards_are_one_line(
    file: str, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(Path(), tiny_settings(host={"workers": 1}))
    assert main(["ingest"]) == 0
    if content is None:
        Path(file).unlink()
    else:
        Path(file).write_bytes(content)
    refused(capsys, "features" if "/val/" in file else "validate", says=("data/shards",))


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--tflops", "nan"),
        ("plan", "--tflops", "inf"),
        ("plan", "--tflops", "0"),
        ("plan", "--gpus", "0"),
        ("plan", "--gpus", "9" * 40),
        ("plan", "--preset", "../x"),
        ("plan", "--preset", "/etc/passwd"),
        ("preset", "../../x"),
        ("preset", ""),
        ("verify", "--tolerance", "nan"),
        ("verify", "--tolerance", "-1"),
        ("dataset", "--accept", ""),
        ("dataset", "--accept", "../.."),
        ("dataset", "--root", "nowhere"),
        ("monitor", "--samples", "-1"),
        ("monitor", "--checkout", "nowhere"),
        ("compare", "a"),
        ("compare", "a", "b"),
        ("monitor", "--result", "."),
        ("tokenizer", "--from", "nowhere"),
        ("plan", "--\x1b[31m"),
    ],
)
def test_bad_words_are_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    write_params(Path())
    refused(capsys, *words)


def test_features_of_other_images_are_refused(
    capsys: pytest.CaptureFixture[str], prepared: Path
) -> None:
    """Test features that are left from an ingest of as many other images."""
    shutil.copytree(prepared, ".", dirs_exist_ok=True)
    facts = json.loads(Path("data/features/teachers.json").read_text())
    Path("data/features/teachers.json").write_text(json.dumps(facts | {"rows_sha256": "0" * 64}))
    refused(capsys, "joint", says=("features of other images than those of data/shards",))
    Path("data/features/teachers.json").write_text(json.dumps(facts | {"widths": [1]}))
    refused(capsys, "joint", says=("is not its shape",))
    Path("data/features/train.npy").write_bytes(b"\x93NUMPY junk")
    refused(capsys, "joint", says=("data/features/train.npy",))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("key", "value"), [("layer", 3), ("sha256", "0" * 64)], ids=["settings", "weights"]
)
def test_features_of_other_teachers_are_refused(
    capsys: pytest.CaptureFixture[str], prepared: Path, cached: bool, key: str, value: object
) -> None:
    shutil.copytree(prepared, ".", dirs_exist_ok=True)
    facts = json.loads(Path("data/features/teachers.json").read_text())
    facts["encoders"][0][key] = value
    Path("data/features/teachers.json").write_text(json.dumps(facts | {"cached": cached}))
    for stage in ("joint", "generator"):
        line = refused(capsys, stage, says=("data/features: features of other teachers",))
        assert line.endswith("run `dvc repro features`")


def test_a_tokenizer_of_another_codebook_size_is_refused(
    capsys: pytest.CaptureFixture[str], prepared: Path
) -> None:
    shutil.copytree(prepared, ".", dirs_exist_ok=True)
    edit_params(Path(), tokenizer={"codes": 128}, generator={"start": "scratch"})
    for stage, folder in (("joint", "tokenizer"), ("generator", "joint")):
        says = (f"data/models/{folder}/tokenizer: it has 64 codes and tokenizer.codes is 128",)
        refused(capsys, stage, says=says)


def test_names_that_are_not_utf8_can_be_shown(capsysbinary: pytest.CaptureFixture[Any]) -> None:
    assert main(["export", os.fsdecode(b"caf\xe9"), "x.pt"]) == 2
    assert b"\\udce9" in capsysbinary.readouterr().err
