"""Test settings: one-line errors, presets, a complete params.yaml, the schema for editors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from gear import params, paths
from gear.cli import main
from gear.core.errors import InputError
from gear.core.settings import UndeclaredParamError
from tests.support.repo import REPO
from tests.support.settings import write_params

TEXT = params.to_yaml(params.Config())
PRESETS = [path.stem for path in sorted((REPO / "presets").glob("*.yaml"))]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("recipe: gear", "recipe: ger", ["joint.recipe", "'ger'", "'continued' or 'ste'"]),
        ("  codes:", "  code:", ["tokenizer.code", "did you mean 'codes'"]),
        ("codes: 512", "codes: -1", ["tokenizer.codes", "-1", "greater than or equal to 2"]),
        ("width: 192", "width: 190", ["generator", "190", "multiple"]),
        ("run:\n", "run: [\n", ["not YAML"]),
        ("  log_every: 20", "", []),
    ],
)
def test_parse_gives_one_line_that_names_the_key(old: str, new: str, words: list[str]) -> None:
    changed = TEXT.replace(old, new, 1)
    assert changed != TEXT
    if not words:  # a missing key has its default
        assert params.parse(changed) == params.Config()
        return
    with pytest.raises(InputError) as caught:
        params.parse(changed)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(("old", "new"), params.MOVED.items())
def test_parse_names_the_new_place_of_a_moved_key(old: str, new: str) -> None:
    section, key = old.split(".")
    with pytest.raises(InputError, match=f"'{old}' is '{new}' now"):
        params.from_values({section: {key: 1}}, "params.yaml")


@pytest.mark.parametrize(
    "unused",
    [
        {"loss": {"adversarial": 0.0}},
        {"gan": {"layers": 4, "start_step": 700}},
        {"gan": {"layers": 4, "start_step": 500}, "joint": {"steps": 300, "recipe": "llamagen"}},
    ],
)
def test_layers_of_a_discriminator_that_never_joins_are_not_checked(
    unused: dict[str, dict[str, object]],
) -> None:
    used = {"gan": {"layers": 4, "start_step": 0}}
    steps = {"tokenizer": {"steps": 400}, "joint": {"steps": 300, "recipe": "gear"}}
    params.from_values({**steps, **used, **unused}, "params.yaml")
    with pytest.raises(InputError, match=r"gan\.layers is 4 and data\.size is 32"):
        params.from_values({**steps, **used}, "params.yaml")


def test_bad_params_are_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ingest"]) == 2
    assert "gear preset quickstart" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text(TEXT.replace("size: 32", "size: 33"))
    assert main(["ingest"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", PRESETS)
def test_written_preset_reads_back_equal_and_complete(name: str) -> None:
    config = params.load_preset(name)
    text = params.to_yaml(config)
    assert params.parse(text) == config
    written = params.flatten(yaml.safe_load(text))
    assert written.keys() == params.flatten(config.model_dump(mode="json")).keys()


def test_every_setting_has_a_sentence_and_a_default() -> None:
    missing = []
    for section, field in params.Config.model_fields.items():
        model = getattr(params.Config(), section)
        missing += [section] if not field.description else []
        for name, inner in type(model).model_fields.items():
            missing += [f"{section}.{name}"] if not inner.description else []
            missing += [f"{section}.{name}"] if inner.is_required() else []
    assert missing == []


def test_params_yaml_of_the_repository_is_the_quickstart() -> None:
    assert (REPO / "params.yaml").read_text() == params.to_yaml(params.load_preset("quickstart"))


def test_schema_file_is_up_to_date_and_is_named_in_params_yaml() -> None:
    assert (REPO / paths.SCHEMA).read_text() == params.schema()
    assert json.loads(params.schema())["additionalProperties"] is False
    assert (
        (REPO / "params.yaml")
        .read_text()
        .startswith(f"# yaml-language-server: $schema={paths.SCHEMA}\n")
    )


def test_apply_preset_writes_params_yaml_and_shows_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    assert "tokenizer.codes: 512 -> 64" in params.apply_preset("tiny")
    assert params.load() == params.load_preset("tiny")
    assert "already" in params.apply_preset("tiny")
    with pytest.raises(InputError, match="there are demo"):
        params.apply_preset("no-such")


def test_preset_extends_another_and_never_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(REPO / "presets", tmp_path / "presets")
    monkeypatch.setattr(paths, "PRESETS", tmp_path / "presets")
    (tmp_path / "presets/mine.yaml").write_text("extends: tiny\njoint: {steps: 3}\n")
    mine, tiny = params.load_preset("mine"), params.load_preset("tiny")
    assert mine.joint.steps == 3
    assert mine.joint.batch == tiny.joint.batch
    (tmp_path / "presets/mine.yaml").write_text("extends: yours\n")
    (tmp_path / "presets/yours.yaml").write_text("extends: mine\n")
    with pytest.raises(InputError, match="extends itself"):
        params.load_preset("mine")


def test_restrict_hides_undeclared_settings_and_keeps_host_and_health() -> None:
    config = params.restrict(params.Config(), {"run", "joint.steps"})
    assert config.joint.steps == 300
    assert config.run.seed == 0
    assert config.host.workers == 2
    assert config.health.window == 20
    with pytest.raises(UndeclaredParamError, match=r"JointConfig\.batch"):
        _ = config.joint.batch
    with pytest.raises(UndeclaredParamError, match=r"DataConfig\.size"):
        _ = config.grid


@pytest.mark.parametrize(
    ("section", "key", "told"),
    [
        ("joint", "lambda_tok", "defaults: joint.lambda_tok: 0.5 (DVC"),
        ("train", None, "defaults: train.balance: classes, "),
        ("teacher", "encoders", "defaults: teacher.encoders: [{name: efficientnet-lite0, "),
    ],
)
def test_a_stage_takes_no_default_that_dvc_does_not_see(
    tmp_path: Path, section: str, key: str | None, told: str
) -> None:
    write_params(tmp_path)
    file = tmp_path / "params.yaml"
    values = yaml.safe_load(file.read_text())
    del (values[section] if key else values)[key or section]
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=re.escape(told)):
        params.load_for_stage("joint", file, REPO / "dvc.yaml")
    if section != "train":
        params.load_for_stage("validate", file, REPO / "dvc.yaml")  # which does not declare it
    params.load(file)


def test_an_encoder_needs_all_its_settings_too(tmp_path: Path) -> None:
    write_params(tmp_path)
    file = tmp_path / "params.yaml"
    values = yaml.safe_load(file.read_text())
    del values["teacher"]["encoders"][0]["layer"]
    del values["host"]  # changes no result, so no stage declares it
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"defaults: teacher\.encoders\.0\.layer: -1 \(DVC"):
        params.load_for_stage("joint", file, REPO / "dvc.yaml")


def test_the_nearest_preset_is_named_with_the_number_of_settings_that_differ() -> None:
    assert params.nearest_preset(params.load_preset("tiny")) == "tiny"
    changed = params.load_preset("tiny", {"joint": {"steps": 3}, "host": {"log_every": 9}})
    assert params.nearest_preset(changed) == "tiny+1"
    assert params.nearest_preset(params.restrict(changed, {"tokenizer"})) == "tiny"


def test_there_is_no_nearest_preset_where_none_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.yaml").write_text("joint: {stps: 3}")
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    assert params.nearest_preset(params.Config()) == ""
