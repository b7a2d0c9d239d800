"""Test what the page of a study says about its statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gear.report.study_page import write_page
from gear.runs.study_file import load_study

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
