"""Test what changes the identity of a training, and what does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gear.params import Config, load_for_stage
from gear.stages import generator, joint, tokenizer
from gear.training.fingerprint import (
    AUTOENCODER_CODE,
    JOINT_CODE,
    code_hashes,
    content_hash,
    identify,
)
from tests.support.repo import REPO
from tests.support.settings import tiny_settings, write_params

STAGES = {"tokenizer": tokenizer, "joint": joint, "generator": generator}


def fingerprint(config: Config, stage: str = "joint") -> str:
    return identify(stage, config.model_dump(mode="json"), {}, JOINT_CODE).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"host": {"threads": 1, "log_every": 7, "checkpoint_every": 3, "zero_stage": 2}},
        {"health": {"window": 7, "min_usage": 0.5}},
        {"joint": {"steps": 999, "fd_every": 9, "fd_n": 9}},
        {"generator": {"steps": 77}},
    ],
)
def test_operational_settings_change_nothing(change: dict[str, dict[str, object]]) -> None:
    assert fingerprint(tiny_settings(**change)) == fingerprint(tiny_settings())


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"seed": 5}},
        {"joint": {"batch": 4}},
        {"joint": {"lr_tokenizer": 0.5}},
        {"train": {"warmup": 9}},
        {"loss": {"l1": 2.0}},
        {"gan": {"start_step": 3}},
    ],
)
def test_mathematical_settings_change_the_identity(change: dict[str, dict[str, object]]) -> None:
    assert fingerprint(tiny_settings(**change)) != fingerprint(tiny_settings())


def test_where_pinned_weights_lie_changes_nothing() -> None:
    def loss(path: str, sha256: str) -> dict[str, dict[str, object]]:
        return {"loss": {"vgg16": {"path": path, "sha256": sha256}}}

    first = fingerprint(tiny_settings(**loss("a/vgg16.pth", "1" * 64)))
    assert fingerprint(tiny_settings(**loss("b/vgg16.pth", "1" * 64))) == first
    assert fingerprint(tiny_settings(**loss("a/vgg16.pth", "2" * 64))) != first
    assert fingerprint(tiny_settings()) != first


def test_an_identity_names_what_differs() -> None:
    old = identify("joint", tiny_settings().model_dump(mode="json"), {}, JOINT_CODE)
    changed = tiny_settings(joint={"batch": 32})
    new = identify("joint", changed.model_dump(mode="json"), {}, JOINT_CODE)
    assert new.differences(old.facts()) == [f"joint.batch {tiny_settings().joint.batch} -> 32"]


def test_comments_docstrings_and_layout_are_no_change_of_code(tmp_path: Path) -> None:
    shutil.copytree(REPO / "gear", tmp_path / "gear")
    file = tmp_path / "gear/losses/adversarial.py"
    text = file.read_text()
    text = text.replace('"""', '"""Three more words. ', 1)  # docstring of the module
    text = text.replace('    """', '    """More words. ', 1)  # docstring of a class
    file.write_text("# a comment\n" + text.replace("\n\n\n", "\n\n\n\n"))
    assert code_hashes(JOINT_CODE, tmp_path / "gear") == code_hashes(JOINT_CODE)


def test_a_change_of_a_formula_is_a_change_of_its_module(tmp_path: Path) -> None:
    shutil.copytree(REPO / "gear", tmp_path / "gear")
    file = tmp_path / "gear/losses/adversarial.py"
    file.write_text(file.read_text().replace("DECAY = 0.999", "DECAY = 0.99"))
    ours, theirs = code_hashes(JOINT_CODE), code_hashes(JOINT_CODE, tmp_path / "gear")
    assert {name for name in ours if ours[name] != theirs[name]} == {"losses/adversarial.py"}


def test_code_that_no_training_computes_with_is_left_out() -> None:
    names = code_hashes(JOINT_CODE)
    measurements = {"joint/quality_curve.py", "joint/guidance_gradient.py"}
    of_samples = {"generator/sampling.py", "generator/prompts.py", "generator/inference.py"}
    assert not {"joint/config.py", "data/near_twins.py", *measurements, *of_samples} & names.keys()
    assert {"joint/step.py", "nn/attention.py", "training/loop.py"} <= names.keys()
    assert "tokenizer/inference.py" in names, "only the generator's module of that name is left out"
    assert not any(
        name.startswith(("joint/", "generator/")) for name in code_hashes(AUTOENCODER_CODE)
    )


@pytest.mark.parametrize("stage", ["joint", "generator"])
def test_code_of_teachers_counts_if_every_step_computes_their_features(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def code() -> set[str]:
        return set(STAGES[stage].identity(tiny_settings()).code)

    without = code()
    file = Path("data/features/teachers.json")
    file.parent.mkdir(parents=True)
    file.write_text('{"cached": true}')
    assert code() == without
    file.write_text('{"cached": false}')
    assert code() - without == {"encoders/teacher_features.py", "encoders/vision.py"}


def test_every_file_that_counts_is_imported_by_a_training() -> None:
    """Import the stages in a process of their own, since other tests import more."""
    program = f"""
import sys
from pathlib import Path
import gear
from gear.stages import {", ".join(STAGES)}
root = Path(gear.__file__).parent
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(*(Path(f).relative_to(root).as_posix() for f in files if f and f.startswith(f"{{root}}/")))
"""
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert code_hashes(JOINT_CODE).keys() - set(done.stdout.split()) == set()


def test_contents_are_hashed_by_relative_names(tmp_path: Path) -> None:
    for name in ("here", "elsewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a").write_text("1")
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere/deep"
    assert content_hash(here) == content_hash(elsewhere)
    (here / "a").rename(here / "b")
    assert content_hash(here) != content_hash(elsewhere)


def test_an_identity_holds_no_absolute_path() -> None:
    assert str(REPO) not in str(joint.identity(tiny_settings()).facts())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_s_identity_holds_the_settings_that_it_declares(stage: str, tmp_path: Path) -> None:
    write_params(tmp_path)
    config = load_for_stage(stage, tmp_path / "params.yaml", REPO / "dvc.yaml")
    sections = {name.split(".")[0] for name in STAGES[stage].identity(config).settings}
    assert {"run", "data", "train"} <= sections
    assert not {"host", "health", "sample", "evaluate", "teacher"} & sections
