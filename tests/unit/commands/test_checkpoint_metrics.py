"""Test which settings a checkpoint is measured with."""

from __future__ import annotations

from pathlib import Path

from gear.commands.checkpoint_metrics import settings_of_state
from tests.support.settings import tiny_settings, write_params


def test_settings_that_a_training_does_not_declare_are_those_of_its_checkout(
    tmp_path: Path,
) -> None:
    write_params(tmp_path, tiny_settings(sample={"guidance": 2.0}, joint={"batch": 8}))
    declared = {"sample": {}, "joint": {"batch": 16}}
    config = settings_of_state(tmp_path, declared, "settings.json")
    assert config.sample.guidance == 2.0
    assert config.joint.batch == 16
