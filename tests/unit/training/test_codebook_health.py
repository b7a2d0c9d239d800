"""Test codebook health: the histogram's summary and the gate."""

from __future__ import annotations

import math

import pytest
import torch

from gear.training.codebook_health import CodebookHealth, Collapse, summary
from gear.training.config import HealthConfig


def test_summary_of_known_histograms() -> None:
    even = summary(torch.full((8,), 3))
    assert even["codebook/usage"] == 1.0
    assert even["codebook/perplexity"] == pytest.approx(8.0)
    skewed = summary(torch.tensor([3, 1, 0, 0]))
    assert skewed["codebook/usage"] == 0.5
    assert skewed["codebook/perplexity"] == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )


def test_the_gate_opens_late_and_names_its_threshold() -> None:
    config = HealthConfig(min_usage=0.5, min_perplexity=0.0, window=1, after_step=10)
    health = CodebookHealth(config, 8, torch.device("cpu"))
    health.count(torch.zeros(4, 4, dtype=torch.int64))
    assert health.close_window() == {
        "codebook/usage": 0.125,
        "codebook/perplexity": pytest.approx(1.0),
    }
    health.check(9)
    with pytest.raises(
        Collapse, match=r"usage 0\.1250 is under health\.min_usage = 0\.5 at step 10"
    ):
        health.check(10)


def test_a_closed_window_starts_the_next_empty() -> None:
    health = CodebookHealth(
        HealthConfig(min_usage=0, min_perplexity=0, window=1, after_step=0), 4, torch.device("cpu")
    )
    health.count(torch.tensor([[0, 1, 2, 3]]))
    health.close_window()
    health.count(torch.tensor([[0, 0]]))
    assert health.close_window()["codebook/usage"] == 0.25


def test_health_is_unbroken_before_a_window_closes_and_says_what_is_under() -> None:
    health = CodebookHealth(
        HealthConfig(min_usage=0.5, min_perplexity=0.2, window=1, after_step=9),
        8,
        torch.device("cpu"),
    )
    assert health.broken() is None
    health.count(torch.arange(4))
    health.close_window()
    assert health.broken() is None
    health.count(torch.tensor([0, 0, 0, 0, 0, 0, 1, 2, 3]))
    health.close_window()
    assert health.broken() is None
    health.count(torch.zeros(9, dtype=torch.int64))
    health.close_window()
    assert health.broken() == "usage 0.1250 is under health.min_usage = 0.5"


def test_a_window_goes_on_where_it_was_saved() -> None:
    config = HealthConfig(min_usage=0.0, min_perplexity=0.0, window=2, after_step=0)
    first, second, other = (CodebookHealth(config, 4, torch.device("cpu")) for _ in range(3))
    first.count(torch.tensor([[0, 0, 1]]))
    saved = first.window_counts()
    assert saved.tolist() == [2, 1, 0, 0]
    second.restore(saved, mine=True)
    other.restore(saved, mine=False)
    assert second.counts.tolist() == [2, 1, 0, 0]
    assert other.counts.tolist() == [0, 0, 0, 0], "one rank holds what all counted"
    second.count(torch.tensor([[3]]))
    assert saved.tolist() == [2, 1, 0, 0]
