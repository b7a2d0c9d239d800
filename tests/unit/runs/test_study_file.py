"""Test study files: what is refused, and which settings identify a run."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from dvc.lock import make_lock
from hydra.core.override_parser.overrides_parser import OverridesParser

from gear.core.errors import InputError
from gear.core.files import read_json
from gear.dvc_experiments import REPOSITORY_LOCK
from gear.runs.study_file import load_study
from gear.runs.study_runner import hydra_text
from gear.runs.study_values import CURVE, end_metrics
from tests.support.repo import REPO
from tests.support.studies import STUDY


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)


@pytest.mark.parametrize("file", sorted((REPO / "studies").glob("*.yaml")), ids=lambda f: f.stem)
def test_studies_of_the_repository_are_sound(file: Path) -> None:
    study = load_study(file)
    assert len(study.runs) == len(study.config.arms) * len(study.config.seeds)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds: one is given twice"),
        ("seeds: [0, 1]", "seeds: []", "seeds: "),
        ("seeds: [0, 1]", "seeds: [-1]", "greater than or equal to 0"),
        ("joint.recipe: gear", "joint.recipe: geer", "arm fast: joint.recipe"),
        ("joint.recipe: gear", "recipe: gear", "arm fast: 'recipe': write section.key"),
        ("joint.recipe: gear", "joint.speed: 2", "arm fast: unknown key 'joint.speed'"),
        ("joint.recipe: gear", "joint.recipe: llamagen_repa", "slow-0 and fast-0 have the same"),
        ("than: [slow]", "than: [slaw]", "hypotheses.H1: no arm 'slaw': there are slow, fast"),
        ("than: [slow]", "than: slow", "hypotheses.H1.predictions.0.than: Input should be a list"),
        ("than: [slow]", "than: []", "name the arms to compare with in `than`"),
        ("kind: sooner", "kind: falls", "takes no `than`"),
        ("kind: sooner", "kind: lower, to: 0.5", "takes no `to`"),
        ("kind: sooner", "kind: falls, to: 5", "predictions.0.to: Input should be less than or"),
        ("kind: sooner", "kind: falls, to: true", "predictions.0.to = True: true and false are"),
        ("  fast: {joint.recipe: gear}", "  fast:", "arms.fast: give its settings, or {}"),
        ("than: [slow]", "than: [fast]", "`than` names other arms, once"),
        ("joint.recipe: gear", "host.threads: 1", "host.threads is not of an arm"),
        ("joint.recipe: gear", "run.seed: 1", "run.seed is not of an arm"),
        ("kind: sooner", "kind: faster", "'sooner', 'lower', 'higher' or 'falls'"),
        ("kind: sooner", "kind: lower, value: fdd", "H1: lower: no metric and no quantity of the "),
        ("kind: sooner", "kind: lower, value: ntp-bits", "'ntp-bits': did you mean 'ntp_bits'?"),
        ("kind: sooner", "kind: lower, value: cka/tap/3", "did you mean 'cka/tap/2'?"),
        ("kind: sooner", "kind: lower, value: fd@2", "no metric and no quantity of the curve"),
        ("kind: sooner", "kind: sooner, value: ntp_bits", "did you mean 'val/ntp_bits'?"),
        ("kind: sooner", "kind: sooner, value: coverage", "no quantity of the curve 'coverage'"),
        ("kind: sooner", "kind: sooner, value: lr/generator", "no quantity of the curve"),
        ("kind: sooner", "kind: sooner, value: val/teacher_cosine", "val/teacher_cosine is not "),
        ("joint.fd_every: 2", "joint.fd_every: 0", "fd is in the curve only if joint.fd_every"),
        ("recipe: gear}", "recipe: gear, joint.fd_n: 9}", "fast and slow differ in joint.fd_n"),
        ("  fast:", "  ../fast:", "arm '../fast'"),
        ("preset: tiny", "preset: ../tiny", "no preset '../tiny'"),
        ("preset: tiny", "presets: tiny", "presets: Extra inputs are not permitted"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "toy.yaml"
    assert old in STUDY
    file.write_text(STUDY.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_study(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value) or "preset" in message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sample.guidance: 2", "fd"),
        ("evaluate.neighbours: 3", "coverage"),
        ("evaluate.input_size: 128", "rfd"),
        ("teacher.encoders: [{input_size: 128}]", "cka/tap/1"),
    ],
)
def test_arms_that_would_be_measured_differently_are_refused(
    tmp_path: Path, setting: str, value: str
) -> None:
    file = tmp_path / "toy.yaml"
    text = STUDY.replace("recipe: gear}", f"recipe: gear, {setting}}}")
    file.write_text(text.replace("kind: sooner", f"kind: lower, value: {value}"))
    with pytest.raises(InputError, match="measured under different protocols"):
        load_study(file)
    file.write_text(text.replace("kind: sooner", "kind: lower, value: psnr"))
    load_study(file)


def test_names_of_all_recorded_values_are_known() -> None:
    config = load_study(REPO / "studies/openmoji.yaml").runs[0].config
    metrics: set[str] = set(read_json(REPO / "reports/protocols.json"))
    curve: set[str] = set()
    for file in (REPO / "docs/studies").glob("*/runs/*.json"):
        record = read_json(file)
        metrics |= record["metrics"].keys()
        curve |= {name for row in record["curve"] for name in row} - {"step"}
    assert metrics - end_metrics(config) == set()
    assert curve - CURVE == set()


def test_runs_share_a_warm_up_if_no_setting_of_it_differs(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    longer = "  longer: {joint.recipe: gear, tokenizer.steps: 13}\nhypotheses:"
    file.write_text(STUDY.replace("hypotheses:", longer))
    runs = {run.name: run for run in load_study(file).runs}
    assert runs["slow-0"].shared == runs["fast-0"].shared
    assert runs["slow-0"].shared != runs["slow-1"].shared
    assert runs["slow-0"].shared != runs["longer-0"].shared


def test_health_does_not_name_a_run_and_other_settings_do(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    names = []
    for settings in ("", ", health.window: 2", ", joint.fd_n: 20"):
        file.write_text(STUDY.replace("joint.fd_every: 2", f"joint.fd_every: 2{settings}"))
        names.append(load_study(file).runs[0].experiment)
    assert names[0] == names[1] != names[2]


TEXTS = ["it's", "a,b", "choice(a,b)", "/w/d (1).pth", "a=b", "~/x", "café", "1e5", "[a: {b}]", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_settings_reach_an_experiment_as_they_are(text: str) -> None:
    """Test with the parser that `dvc exp run -S` uses."""
    value = {"path": text, "sizes": [1, 2.5, text], "on": True, "none": None}
    parsed = OverridesParser.create().parse_override(f"a.b={hydra_text(value)}")
    assert parsed.value() == value


@pytest.mark.parametrize("text", ["a\\b", "${run.seed}", "a\nb"])
def test_a_text_that_cannot_be_given_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no backslash"):
        hydra_text([text])


def test_a_plan_is_of_settings_and_claims_and_not_of_where_they_are_written(tmp_path: Path) -> None:
    def plan(old: str = "", new: str = "") -> str:
        assert old in STUDY
        (tmp_path / "toy.yaml").write_text(STUDY.replace(old, new, 1))
        return load_study(tmp_path / "toy.yaml").plan

    written = plan()
    assert plan("settings: {", "settings: {joint.batch: 16, ") == written, "as the preset has it"
    assert plan("settings: {", "settings: {joint.batch: 8, ") != written
    assert plan("kind: sooner", "kind: lower, value: fd") != written


def test_settings_of_an_experiment_that_is_being_prepared_are_not_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that params.yaml is read when DVC's lock of the checkout is free."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    shutil.copy(REPO / "dvc.yaml", "dvc.yaml")
    file, own = tmp_path / "params.yaml", (REPO / "params.yaml").read_text()
    (tmp_path / "toy.yaml").write_text(STUDY.replace("preset: tiny", "preset: params.yaml"))
    held = threading.Event()

    def prepare() -> None:
        with make_lock(str(tmp_path / REPOSITORY_LOCK)):
            file.write_text(own.replace("  codes: 512", "  codes: 64"))
            held.set()
            time.sleep(1)
            file.write_text(own)

    preparing = threading.Thread(target=prepare)
    preparing.start()
    assert held.wait(30)
    assert "  codes: 64" in file.read_text()
    study = load_study(tmp_path / "toy.yaml")
    preparing.join()
    assert {run.config.tokenizer.codes for run in study.runs} == {512}
