"""Test that damaged or malicious saved states give one line and stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gear.core.errors import InputError
from gear.training import checkpoint_manager, engine
from gear.training.fingerprint import Identity
from gear.training.states import list_states, read_tag
from tests.support.commands import run_gear
from tests.support.hostile import snapshot
from tests.support.repo import REPO


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_deepspeeds_files_are_read_without_code(tmp_path: Path) -> None:
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    reader = engine.tensors_only(TorchCheckpointEngine())
    torch.save({"a": torch.ones(2), "b": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        reader.load(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pt")
    assert torch.equal(reader.load(str(tmp_path / "good.pt"))["a"], torch.ones(2))


def copy(prepared: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return a copy of the folder, its pointer to the latest state, and that state."""
    folder = tmp_path / "c"
    shutil.copytree(prepared, folder)
    (latest,) = folder.glob(".gear/tokenizer/*/latest")
    return folder, latest, latest.parent / latest.read_text()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def code(file: Path) -> None:
    torch.save({"step": 3, "module": Evil(file.parents[4] / "ran")}, file)


def junk(file: Path) -> None:
    file.write_bytes(b"\x80junk" * 50)


@pytest.mark.parametrize(
    ("which", "spoil"),
    [
        pytest.param("state.pt", cut, marks=pytest.mark.slow),
        ("state.pt", code),
        pytest.param("tokenizer/mp_rank*", code, marks=pytest.mark.slow),
        ("tokenizer/mp_rank*", Path.unlink),
        pytest.param("tokenizer/zero*", code, marks=pytest.mark.slow),
        pytest.param("tokenizer/zero*", empty, marks=pytest.mark.slow),
        pytest.param("latest", empty, marks=pytest.mark.slow),
        pytest.param("latest", junk, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_state_is_one_line(
    prepared: Path, tmp_path: Path, which: str, spoil: Callable[[Path], Any]
) -> None:
    folder, latest, where = copy(prepared, tmp_path)
    shutil.rmtree(latest.parent / "older")
    (file,) = [latest] if which == "latest" else where.glob(which)
    spoil(file)
    if which == "latest":  # with a manifest, the state is found without its pointer
        (where / "manifest.json").unlink()
    before = snapshot(latest.parent)
    done = run_gear(folder, "tokenizer")
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("gear tokenizer: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert "weights_only=False" not in done.stderr
    assert "to start anew" in lines[0]
    assert not (folder / "ran").exists()
    after = snapshot(latest.parent)
    for name in ("lock", "settings.json"):  # these belong to the process, not to the state
        before.pop(name, None), after.pop(name, None)
    assert after == before
    assert (folder / "data/models/tokenizer/tokenizer/model.safetensors").exists()


@pytest.mark.parametrize(
    ("which", "spoil"), [("state.pt", code), pytest.param("latest", junk, marks=pytest.mark.slow)]
)
def test_with_an_older_state_a_damaged_one_costs_some_steps(
    prepared: Path, tmp_path: Path, which: str, spoil: Callable[[Path], Any]
) -> None:
    folder, latest, where = copy(prepared, tmp_path)
    spoil(latest if which == "latest" else where / which)
    model = "data/models/tokenizer/tokenizer/model.safetensors"
    (folder / model).unlink()
    done = run_gear(folder, "tokenizer")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("going on from") == 1
    assert (folder / model).read_bytes() == (prepared / model).read_bytes()
    assert not (folder / "ran").exists()


def test_states_with_damaged_descriptions_are_listed_or_left_out(tmp_path: Path) -> None:
    for number, content in enumerate([b"", b"\xff", b"[" * 10_000, b"[]", b'{"step": "x"}']):
        folder = tmp_path / f"joint/{number}"
        folder.mkdir(parents=True)
        (folder / "latest").write_text("step-3")
        (folder / "description.json").write_bytes(content)
    (tmp_path / "joint/bad").mkdir()
    (tmp_path / "joint/bad/latest").write_bytes(b"../../../etc\n")
    with pytest.raises(InputError, match="damaged"):
        read_tag(tmp_path / "joint/bad")
    current = {"joint": Identity("joint", {}, {}, {}, {}, {})}
    listed = list_states(tmp_path, current)
    assert sorted(state.folder.name for state in listed) == ["0", "1", "2", "3", "4"]
    assert {state.step for state in listed} == {3}


def test_reasons_of_damaged_states_leave_pytorchs_advice_out() -> None:
    error = RuntimeError(
        "bad file\nRe-running `torch.load` with `weights_only` set to `False` will"
    )
    assert "Re-running" not in str(checkpoint_manager._damaged(REPO / "a/b/c", error))
