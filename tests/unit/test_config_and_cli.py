"""params.yaml's errors, presets, and a help that answers at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gear import params as config
from gear.cli import main
from gear.params import apply_preset

REPO = Path(__file__).parents[2]
TEXT = (REPO / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "recipe: gear",
            "recipe: ger",
            ["joint.recipe", "'ger'", "'llamagen_repa', 'llamagen', 'continued' or 'ste'"],
        ),
        ("  codes:", "  code:", ["tokenizer.code", "did you mean 'codes'"]),
        ("codes: 512", "codes: -1", ["tokenizer.codes", "-1", "greater than or equal to 2"]),
        ("width: 192", "width: 190", ["generator", "190", "multiple"]),
        ("run: {", "run: [", ["not YAML"]),
    ],
)
def test_a_bad_file_gives_one_line_that_names_the_key(old: str, new: str, words: list[str]) -> None:
    with pytest.raises(config.InputError) as caught:
        config.parse(TEXT.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_bad_file_is_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ingest"]) == 2
    assert "gear preset quickstart" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text(TEXT.replace("size: 32", "size: 33"))
    assert main(["ingest"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [path.stem for path in sorted((REPO / "presets").glob("*.yaml"))])
def test_every_preset_is_valid(name: str) -> None:
    config.load(REPO / "presets" / f"{name}.yaml")


def test_a_preset_is_written_and_its_changes_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(REPO / "presets", tmp_path / "presets")
    (tmp_path / "params.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    assert "tokenizer.codes: 512 -> 64" in apply_preset("tiny")
    assert (tmp_path / "params.yaml").read_bytes() == (REPO / "presets/tiny.yaml").read_bytes()
    assert "already" in apply_preset("tiny")
    with pytest.raises(config.InputError, match="there are demo"):
        apply_preset("no-such")


def test_help_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gear", "--help"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "codebook" in done.stdout
    assert not [
        line
        for line in done.stderr.splitlines()
        if line.split("|")[-1].strip() in ("torch", "pandas", "deepspeed")
    ]
