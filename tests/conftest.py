"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from gear import params
from tests.support.commands import gear
from tests.support.settings import tiny_settings, write_params


@pytest.fixture(scope="session")
def tiny() -> params.Config:
    """Return the settings of the tiny preset."""
    return params.load_preset("tiny")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with shards, features, a warmed-up tokenizer and an uninterrupted joint run.

    Tests work on copies. Test processes share the folder: the first one makes it, under a lock.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    cwd, done = shared / "prepared", shared / "prepared.done"
    with (shared / "prepared.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            config = tiny_settings(
                host={"log_every": 2, "checkpoint_every": 2},
                train={"bf16": False},
                joint={"steps": 8, "batch": 8},
                generator={"dropout": 0.0, "class_dropout": 0.0},
            )
            write_params(cwd, config)
            for stage in ("ingest", "features", "reference", "tokenizer", "joint"):
                gear(cwd, stage)
            done.touch()
    return cwd
