"""Test the report's curves: rows for `dvc plots`."""

from __future__ import annotations

import math

import yaml

from gear import paths
from gear.report.curves import plot_rows
from tests.support.repo import REPO


def test_plots_hold_one_set_of_names_and_those_that_the_pipeline_draws() -> None:
    plain = {"loss/ntp": 2.0, "codebook/perplexity": 3.0}
    logged = [
        {"step": 0, "fd": 9.0},
        {"step": 1, **plain, "loss/l1": 1.0},
        {"step": 2, "fd": 5.0, **plain},
        {"step": 4, "fd": 4.0, **plain},
    ]
    rows = plot_rows(logged)
    assert [row["step"] for row in rows] == [2, 4]
    assert [row["step"] for row in plot_rows(logged[:2])] == [1]
    assert plot_rows([]) == []
    plots = yaml.safe_load((REPO / "dvc.yaml").read_text())["plots"]
    recorded = [options for plot in plots for options in plot.values() if "y" in options]
    drawn = {field for o in recorded for field in (o["x"], o["y"]["reports/curves.json"])}
    assert all(drawn == set(row) for row in rows)


def test_a_value_that_is_not_finite_is_drawn_as_a_gap() -> None:
    rows = [
        {"step": 1, "fd": 3.0, "loss/ntp": math.nan},
        {"step": 2, "fd": math.inf, "loss/ntp": 1.0},
    ]
    assert plot_rows(rows) == [
        {"step": 1, "fd": 3.0, "loss/ntp": None},
        {"step": 2, "fd": None, "loss/ntp": 1.0},
    ]


def test_live_plots_lie_where_trainings_log() -> None:
    plots = yaml.safe_load((REPO / "dvc.yaml").read_text())["plots"]
    files = {file for plot in plots for o in plot.values() for file in o.get("y", ())}
    live = {file for file in files if file != str(paths.PLOTS)}
    assert len(live) == 3
    assert all(file.startswith(f"{paths.LIVE / 'joint'}/plots/metrics/") for file in live)
    folders = {name for plot in plots for name, o in plot.items() if "y" not in o}
    assert folders == {f"{paths.LIVE / stage}/plots/metrics" for stage in paths.TRAININGS}
    assert f"/{paths.LIVE}/" in (REPO / ".gitignore").read_text().splitlines()
    assert "reports" not in (REPO / ".dvcignore").read_text()
