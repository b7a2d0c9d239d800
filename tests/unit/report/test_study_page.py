"""Test what the page of a study says about its statistics, and its charts of differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gear.report.study_page import difference_charts, write_page
from gear.runs.study_file import load_study
from gear.runs.study_records import by_arm_and_seed
from tests.support.study_records import STEPS, record
from tests.unit.report.test_line_chart import data_of

ROOT = Path(__file__).parents[3]


def test_the_page_names_the_corrected_level_and_the_lowest_p_without_normality() -> None:
    study = load_study(ROOT / "studies/fashion-mnist.yaml")  # 7 predictions, 3 seeds
    page = write_page(study, {}, {})
    assert "corrected for the 7 predictions of this page" in page
    assert "p has to be below 0.0071" in page
    assert "cannot give a p below 0.25 with 3 seeds" in page


def test_a_study_without_hypotheses_has_a_page() -> None:
    study = load_study(ROOT / "studies/toy.yaml")
    bare = replace(study, config=study.config.model_copy(update={"hypotheses": {}}))
    page = write_page(bare, {}, {})
    assert study.config.question in page.replace("&#39;", "'")
    assert "corrected for" not in page


def test_differences_are_of_the_same_seed_at_the_same_step() -> None:
    """Test that seeds of very different levels give the differences, and lone seeds nothing."""
    study = load_study(ROOT / "studies/openmoji-confirm.yaml")
    levels = {6: 100.0, 7: 900.0}
    runs = [
        *(record("continued", seed, [level] * 5) for seed, level in levels.items()),
        *(record("gear", seed, [level, *[level - 4.0] * 4]) for seed, level in levels.items()),
        record("gear", 8, [1.0] * 5),
    ]
    [chart] = difference_charts(study, by_arm_and_seed(runs))
    assert "FD of fresh samples: gear minus continued" in chart
    [line] = data_of(chart)["series"]
    assert line["label"] == "minus continued (2)"
    assert line["points"] == [[step, 0.0 if step == 0 else -4.0] for step in STEPS]


def test_runs_that_cannot_be_compared_are_not_subtracted() -> None:
    study = load_study(ROOT / "studies/openmoji-confirm.yaml")
    values = [5.0, 4.0, 3.0, 2.0, 1.0]
    runs = [record("continued", 6, values), record("gear", 6, values, code="other")]
    assert difference_charts(study, by_arm_and_seed(runs)) == []
