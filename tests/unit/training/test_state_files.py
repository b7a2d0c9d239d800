"""Test that the previous state is loaded, with one warning, if any file is damaged."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gear.core.errors import InputError
from gear.core.files import sha256_of
from gear.training import background_writer, checkpoint_manager, state_files
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.config import TrainConfig
from gear.training.distributed import DistributedContext
from gear.training.engine import build_engine, update_weights
from gear.training.state_files import damage, find_whole
from gear.training.states import read_description


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = (truncate, flip_a_bit, empty, Path.unlink)


def engine(world: DistributedContext) -> Any:
    torch.manual_seed(0)
    return build_engine(nn.Linear(3, 2), TrainConfig(bf16=False), world, lr=0.1, batch=1)


@pytest.fixture(scope="module")
def saved(world: DistributedContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with states of steps 1 and 2 of a small model."""
    folder = tmp_path_factory.mktemp("states") / "run"
    manager, trained = CheckpointManager(folder, world), engine(world)
    for step in (1, 2):
        update_weights(trained, trained(torch.ones(1, 3)).sum(), "model", [])
        weights = trained.module.weight.detach().clone()
        manager.save({"model": trained}, {"step": step, "weights": weights})
    manager.close()
    assert {path.name for path in folder.glob("*step-*")} == {"step-2"}
    assert {path.name for path in folder.glob("older/*")} == {"step-1"}
    return folder


def files(saved: Path) -> list[str]:
    state = saved / "step-2"
    return sorted(str(f.relative_to(state)) for f in state.rglob("*") if f.is_file())


@pytest.mark.parametrize("spoil", DAMAGES, ids=lambda f: f.__name__)
def test_whatever_file_is_damaged_the_state_before_is_loaded(
    world: DistributedContext,
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], Any],
) -> None:
    names = files(saved)
    assert len(names) >= 4, "manifest, state, weights, optimiser"
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        spoil(folder / "step-2" / name)
        manager, fresh = CheckpointManager(folder, world), engine(world)
        capsys.readouterr()
        if name == "manifest.json" and spoil is Path.unlink:
            continue  # states of older versions have no manifest and are not checked
        state = manager.load({"model": fresh})
        manager.close()
        assert state is not None
        assert state["step"] == 1, name
        assert torch.equal(fresh.module.weight, state["weights"]), name
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1, name
        assert f"going on from {folder / 'older/step-1'}" in warning


def test_a_file_that_cannot_be_read_is_damaged(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bad_sector(file: Path) -> str:
        if file.parent.parent.name == "step-2":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return sha256_of(file)

    monkeypatch.setattr(state_files, "sha256_of", bad_sector)
    assert find_whole(saved) == saved / "older/step-1"
    assert "Input/output error: going on from" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", DAMAGES, ids=lambda f: f.__name__)
def test_without_another_state_it_is_one_line(
    world: DistributedContext, saved: Path, tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    for number, name in enumerate(files(saved)):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        shutil.rmtree(folder / "older")
        spoil(folder / "step-2" / name)
        manager = CheckpointManager(folder, world)
        if name == "manifest.json" and spoil is Path.unlink:
            assert manager.load({"model": engine(world)}) is not None
        else:
            with pytest.raises(InputError, match="to start anew"):
                manager.load({"model": engine(world)})
        manager.close()


def test_a_lost_pointer_is_found_again(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    (folder / "latest").unlink()
    assert find_whole(folder) == folder / "step-2"
    (folder / "latest").write_bytes(b"\x00\x00")
    assert find_whole(folder) == folder / "step-2"
    shutil.rmtree(folder / "step-2")
    (folder / "latest").write_text("step-2")
    assert find_whole(folder) == folder / "older/step-1"


def test_a_forgotten_state_is_not_found_again(
    world: DistributedContext, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    manager = CheckpointManager(folder, world)
    manager.describe(2)
    manager.forget()
    assert find_whole(folder) is None
    assert not read_description(folder), "it would describe the next state until that one is"
    manager.save({}, {"step": 1})
    manager.close()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"step-1"}


def test_a_stopped_state_is_loaded_if_the_one_after_it_is_damaged(
    world: DistributedContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = CheckpointManager(tmp_path / "run", world)
    manager.save({}, {"step": 100})
    manager.save_stopped({}, {"step": 150})
    manager.save({}, {"step": 200})
    truncate(manager.folder / "step-200/state.pt")
    state = manager.load({})
    assert state is not None
    assert state["step"] == 150
    assert "going on from" in capsys.readouterr().err
    manager.save({}, {"step": 200})
    assert find_whole(manager.folder) == manager.folder / "step-200"
    manager.close()


def test_a_healthy_stopped_state_is_loaded_if_the_latest_is_damaged(
    world: DistributedContext, tmp_path: Path
) -> None:
    manager = CheckpointManager(tmp_path / "run", world)
    manager.save_stopped({}, {"step": 50})
    manager.mark_healthy()
    manager.save({}, {"step": 100})
    truncate(manager.folder / "step-100/state.pt")
    state = manager.load({})
    manager.close()
    assert state is not None
    assert state["step"] == 50


def test_the_newest_whole_state_is_loaded_stopped_or_not(
    world: DistributedContext, tmp_path: Path
) -> None:
    manager = CheckpointManager(tmp_path / "run", world)
    for step in (1, 2, 3):
        manager.save({}, {"step": step})
    manager.save_stopped({}, {"step": 4})
    manager.close()
    truncate(manager.folder / "step-3/state.pt")
    assert find_whole(manager.folder) == manager.folder / "stopped-step-4"
    truncate(manager.folder / "stopped-step-4/state.pt")
    assert find_whole(manager.folder) == manager.folder / "older/step-2"


def test_a_kill_in_a_save_leaves_the_state_before(
    world: DistributedContext, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test a process that ends at any step of a save."""

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    for number, name in enumerate(("write_manifest", "retire", "flush")):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        manager = CheckpointManager(folder, world)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_manager, name, kill)
            with pytest.raises(Killed):
                manager.save({}, {"step": 3})
        manager.close()
        found = find_whole(folder)
        assert found is not None
        assert found.name in ("step-2", "step-3")
        assert damage(found) is None


def test_a_failed_write_leaves_no_draft_that_fills_the_disk(
    world: DistributedContext, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(saved, tmp_path / "run")
    manager = CheckpointManager(folder, world)

    def full(copy: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(background_writer, "_write", full)
    with pytest.raises(OSError, match="No space"):
        manager.save({}, {"step": 3})
    manager.close()
    assert not [*folder.glob("*.partial")]
    assert find_whole(folder) == folder / "step-2"


def test_a_training_that_starts_clears_up_after_a_killed_save(
    world: DistributedContext, saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "run")
    (folder / "step-3.partial").mkdir()
    CheckpointManager(folder, world).close()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"step-2", "older"}


def test_after_damage_a_collapse_goes_back_to_a_state_that_is_whole(
    world: DistributedContext, saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "run")
    manager, trained = CheckpointManager(folder, world), engine(world)
    manager.mark_healthy()
    truncate(folder / "step-2/state.pt")
    assert manager.load({"model": trained}) is not None
    manager.save({"model": trained}, {"step": 3})
    assert manager.roll_back() == folder / "step-1"
    state = manager.load({"model": trained})
    assert state is not None
    assert state["step"] == 1
    manager.close()


@pytest.mark.parametrize("content", ["", "garbage", "\0\0\0", "step-"])
def test_a_damaged_file_healthy_names_no_state(
    world: DistributedContext, saved: Path, tmp_path: Path, content: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "run")
    (folder / "healthy").write_text(content)
    manager, trained = CheckpointManager(folder, world), engine(world)
    state = manager.load({"model": trained})
    assert state is not None
    assert state["step"] == 2
    assert manager.roll_back() == folder / "step-2"
    manager.save({"model": trained}, {"step": 3})
    manager.mark_healthy()
    assert manager.read("healthy") == "step-3"
    manager.close()


def test_a_collapse_does_not_go_back_to_a_damaged_state(
    world: DistributedContext, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(saved, tmp_path / "run")
    manager = CheckpointManager(folder, world)
    manager.mark_healthy()
    manager.save({"model": engine(world)}, {"step": 3})
    truncate(folder / "step-2/state.pt")
    assert manager.roll_back() == folder / "step-3"
    assert "it was the last healthy state" in capsys.readouterr().err
    manager.close()


def test_a_save_that_fails_loses_nothing_and_the_next_one_clears_up(
    world: DistributedContext, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test the error of a full disk, which gear.core.exit_codes recognises."""
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    (folder / "step-1.deleted").mkdir()  # left by a kill in the middle of a deletion
    manager = CheckpointManager(folder, world)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_manager.torch, "save", fail)
        with pytest.raises(RuntimeError, match="unexpected pos"):
            manager.save({}, {"step": 3})
    assert find_whole(folder) == folder / "step-2"
    manager.save({}, {"step": 4})
    manager.close()
    left = {path.name for path in folder.iterdir() if path.is_dir()}
    assert left == {"step-4", "older"}
