"""Curves of the report: rows for `dvc plots`."""

from __future__ import annotations

import yaml

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
    drawn = {
        field
        for plot in plots
        for options in plot.values()
        for field in (options["x"], *options["y"].values())
    }
    assert all(drawn == set(row) for row in rows)
