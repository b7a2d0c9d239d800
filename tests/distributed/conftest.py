"""One joint training, before and after, for all tests of trainings as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import gear
from tests.support.settings import tiny_settings, write_params


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout-like folder with shards, features, a warm tokenizer and an uninterrupted joint run."""
    cwd = tmp_path_factory.mktemp("run")
    config = tiny_settings(
        host={"log_every": 2, "checkpoint_every": 2},
        train={"bf16": False},
        joint={"steps": 8, "batch": 8},
        generator={"dropout": 0.0, "class_dropout": 0.0},
    )
    write_params(cwd, config)
    for stage in ("ingest", "features", "reference", "tokenizer", "joint"):
        gear(cwd, stage)
    return cwd
