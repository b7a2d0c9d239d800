"""Test the environment of stages that run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from gear.runs.rerun import Rerun
from gear.runs.revision import WORKSPACE, Revision


def test_stages_do_not_get_the_states_or_ranks_of_the_caller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("GEAR_STATES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "PYTHONPATH")
    for name in (*names, "HTTPS_PROXY"):
        monkeypatch.setenv(name, "1")
    rerun = Rerun(tmp_path, tmp_path, Revision(WORKSPACE, "", tmp_path), {}, None)
    environment = rerun._environment()
    assert not environment.keys() & set(names)
    assert environment["HTTPS_PROXY"] == "1"
