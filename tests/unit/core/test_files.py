"""Test that replaced folders, JSON and locks survive interruptions, NaN and hostile links."""

from __future__ import annotations

import json
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gear.core.errors import InputError
from gear.core.files import (
    allow_many_open_files,
    drafts_of,
    exclusive_lock,
    replace_folder,
    require_writable,
    write_json,
)
from gear.data.shards import open_shard
from gear.launch import _require_own


def fill(draft: Path) -> None:
    (draft / "file").write_text("new")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/file").write_text("old")
    return tmp_path / "models"


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt(), OSError("no space")])
def test_a_folder_survives_an_end_between_the_two_renames(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    rename = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if source == drafts_of(folder)[0]:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(type(error)):
        replace_folder(folder, fill)
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in folder.parent.iterdir()] == ["models"]


def test_a_folder_is_found_again_after_a_kill_between_the_two_renames(folder: Path) -> None:
    folder.rename(drafts_of(folder)[1])

    def fail(draft: Path) -> None:
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        replace_folder(folder, fail)
    assert (folder / "file").read_text() == "old"
    replace_folder(folder, fill)
    assert (folder / "file").read_text() == "new"


def test_a_folder_of_the_user_is_never_taken_for_a_draft(folder: Path) -> None:
    for name in ("models.partial", "models.old.partial"):
        folder.with_name(name).mkdir()
        (folder.with_name(name) / "thesis.tex").touch()
    replace_folder(folder, fill)
    assert len([*folder.parent.rglob("thesis.tex")]) == 2


def test_a_place_that_takes_no_file_is_named_before_the_work() -> None:
    with pytest.raises(InputError, match=r"--out /proc/x\.png: cannot be written: /proc"):
        require_writable(Path("/proc/x.png"), "--out")


def test_the_folder_that_a_link_leads_to_is_replaced_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "large-disk/models").mkdir(parents=True)
    link = tmp_path / "models"
    link.symlink_to("large-disk/models")
    for _ in range(3):
        replace_folder(link, fill)
        assert link.is_symlink()
        assert (tmp_path / "large-disk/models/file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large-disk", "models"]
    assert [path.name for path in (tmp_path / "large-disk").iterdir()] == ["models"]


@pytest.mark.parametrize("number", [math.nan, math.inf, np.float64("nan")])
def test_json_without_a_number_is_refused_and_the_old_file_stays(
    tmp_path: Path, number: float
) -> None:
    file = tmp_path / "metrics.json"
    write_json(file, {"fd": 1.23456789, "rfid": None})
    before = file.read_text()
    assert json.loads(before) == {"fd": 1.23457, "rfid": None}
    with pytest.raises(ValueError, match=r"metrics\.json: rows\.1\.probe is (nan|inf)"):
        write_json(file, {"rows": [{"probe": 0.5}, {"probe": number}]})
    assert file.read_text() == before


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), exclusive_lock(tmp_path / "lock", "held"):
        pass
    assert victim.read_text() == "precious"


def test_locks_of_gpus_lie_in_a_folder_of_this_user_alone(tmp_path: Path) -> None:
    _require_own(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    for name in ("open", "link"):
        with pytest.raises(InputError, match="not a folder of this user alone"):
            _require_own(tmp_path / name)


@pytest.fixture
def few_open_files() -> Iterator[int]:
    """Lower the limit of open files; yield the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised(few_open_files: int, tmp_path: Path) -> None:
    if few_open_files != resource.RLIM_INFINITY and few_open_files < 1024:
        pytest.skip("the hard limit is low")
    allow_many_open_files()
    opened = [(tmp_path / str(number)).open("w") for number in range(600)]
    for file in opened:
        file.close()


def test_a_shard_beyond_the_limit_of_open_files_is_not_called_damaged(
    few_open_files: int, tmp_path: Path
) -> None:
    (tmp_path / "0.parquet").write_bytes(b"")
    opened = []
    try:
        while len(opened) < 256:
            opened.append((tmp_path / str(len(opened))).open("w"))
    except OSError:  # none is left
        with pytest.raises(InputError, match="too many open files: raise `ulimit -n`"):
            open_shard(tmp_path / "0.parquet")
    finally:
        for file in opened:
            file.close()
    assert len(opened) < 256
