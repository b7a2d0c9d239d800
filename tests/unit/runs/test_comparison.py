"""Test arms, speeds and their intervals against independent computations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from gear.runs.comparison import (
    SAMPLING,
    Arm,
    Run,
    check_protocols,
    group,
    mean_and_std,
    speed,
    steps_to,
)

STEPS = np.arange(0.0, 401.0, 100.0)


def make(name: str, recipe: str, seed: int, fd: list[float], **fields: object) -> Run:
    settings = {"run.seed": seed, "joint.recipe": recipe}
    records = {"fd": {"value": fd[-1], "protocol": {"n": 4, "seeds": f"{seed} * 2"}}}
    curves = {
        "joint": [
            {"step": float(s), "fd": v, "loss/ntp": 1.0} for s, v in zip(STEPS, fd, strict=True)
        ]
    }
    return replace(Run(name, "c" * 40, settings, "code", records, curves=curves), **fields)


SLOW = [
    make(f"slow-{i}", "llamagen_repa", i, [400, 300, 220 + 9 * i, 170, 140 + 12 * i])
    for i in range(3)
]


FAST = [make(f"fast-{i}", "gear", i, [400, 210 + 20 * i, 140 + 5 * i, 110, 90]) for i in range(3)]


def crossing(values: np.ndarray, target: float) -> float:
    """Return the first step at or below the target, by search on a fine grid."""
    grid = np.linspace(STEPS[0], STEPS[-1], 40_001)
    below = np.interp(grid, STEPS, values) <= target + 1e-9
    return float(grid[below.argmax()]) if below.any() else np.inf


def test_steps_to_a_target_are_those_of_a_fine_grid() -> None:
    curve = np.array([400.0, 300.0, 320.0, 170.0, 200.0])
    for target in (400.0, 350.0, 310.0, 200.0, 170.0):
        assert steps_to(STEPS, curve, target) == pytest.approx(crossing(curve, target), abs=2e-2)
    assert steps_to(STEPS, curve, 169.0) is None


def test_the_interval_holds_what_all_resamples_together_give() -> None:
    """Test the bootstrap interval against the exact distribution.

    Three seeds per arm have 27 resamples each, and all 729 pairs are equally likely.
    """
    slow, fast = (group(runs)[0].curve("joint", "fd") for runs in (SLOW, FAST))
    found = speed(slow, fast)
    assert found is not None
    assert found.interval is not None
    exact = []
    for a, b in itertools.product(itertools.product(range(3), repeat=3), repeat=2):
        base, arm = slow[1][list(a)].mean(0), fast[1][list(b)].mean(0)
        exact.append(crossing(base, base[-1]) / crossing(arm, base[-1]))
    for bound, share in zip(found.interval, (0.025, 0.975), strict=True):
        at_most, below = (
            np.mean(np.array(exact) <= bound + 1e-3),
            np.mean(np.array(exact) < bound - 1e-3),
        )
        assert below - 0.01 <= share <= at_most + 0.01
    mean = slow[1].mean(0)
    assert found.target == pytest.approx(152.0)
    assert found.ratio == pytest.approx(crossing(mean, 152) / found.steps, abs=1e-3)
    assert found.interval[0] < found.ratio < found.interval[1]


def test_what_has_no_interval() -> None:
    slow, fast = group(SLOW)[0].curve("joint", "fd"), group(FAST)[0].curve("joint", "fd")
    one = (fast[0], fast[1][:1])
    alone = speed(slow, one)
    assert alone is not None
    assert alone.interval is None
    assert alone.ratio is not None
    other_way = speed(fast, slow)  # the slow arm never reaches the end of the fast one
    assert other_way is not None
    assert other_way.ratio is None
    assert other_way.interval == (0.0, 0.0)
    assert speed((np.array([]), np.empty((3, 0))), fast) is None
    worse = (np.array([0.0, 100.0]), np.array([[5.0, 6.0], [5.0, 6.2]]))
    assert speed(worse, fast) is None, "any arm would have reached its end at once"


def test_arms_are_runs_that_differ_in_the_seed_alone() -> None:
    arms = group([SLOW[0], FAST[0], SLOW[1], FAST[1]])
    assert [(arm.label, len(arm.runs)) for arm in arms] == [
        ("recipe llamagen_repa", 2),
        ("recipe gear", 2),
    ]
    assert [arm.label for arm in group([SLOW[0], replace(SLOW[1], code="other")])] == [
        "slow-0",
        "slow-1",
    ]
    with pytest.raises(ValueError, match="slow-0 and again are one run"):
        group([SLOW[0], replace(SLOW[0], name="again")])


def test_seeds_share_steps_that_all_logged() -> None:
    short = replace(SLOW[1], curves={"joint": SLOW[1].curves["joint"][::2]})
    steps, values = Arm("a", [SLOW[0], short]).curve("joint", "fd")
    assert steps.tolist() == [0, 200, 400]
    assert values.shape == (2, 3)


def test_protocols_may_differ_in_seeds_and_in_nothing_else() -> None:
    check_protocols([*SLOW, *FAST])
    other = replace(FAST[0], records={"fd": {"value": 1.0, "protocol": {"n": 5, "seeds": "0 * 2"}}})
    with pytest.raises(
        ValueError,
        match="fd of slow-0 and fast-0: measured under different protocols, "
        "not comparable: n: 4 against 5",
    ):
        check_protocols([SLOW[0], other])
    with pytest.raises(
        ValueError, match=r"conditions of slow-0 and fast-0: .*data: 'a' against 'b'"
    ):
        check_protocols(
            [replace(SLOW[0], conditions={"data": "a"}), replace(FAST[0], conditions={"data": "b"})]
        )


DRAWN = {"n": 4, "reference_n": 9, "extractor": "e", "guidance": 1.0, "top_k": 0, "seeds": "0 * 7"}


def drawn(name: str, recipe: str = "gear", seed: int = 0, **protocol: object) -> Run:
    """Return a run with samples drawn and measured as in DRAWN, except for `protocol`."""
    run = make(name, recipe, seed, [400, 300, 200, 100, 90])
    records = {
        "fd": {"value": 90.0, "protocol": DRAWN | protocol},
        "fd_floor": {"value": 5.0, "protocol": {"n": 4}},
    }
    settings = {f"sample.{key}": protocol[key] for key in protocol if key in SAMPLING}
    return replace(run, records=records, settings=run.settings | settings)


def test_other_sampling_is_compared_only_if_asked_for() -> None:
    runs = [drawn("a"), drawn("b", guidance=2.0, top_k=100)]
    with pytest.raises(
        ValueError, match=r"guidance: 1.0 against 2.0; top_k: 0 against 100\. Only"
    ) as hint:
        check_protocols(runs)
    assert "`--across sample`" in str(hint.value)
    check_protocols(runs, across_sampling=True)


@pytest.mark.parametrize(
    "other", [{"n": 5}, {"reference_n": 8}, {"extractor": "f"}, {"rounding": "none"}]
)
def test_across_sampling_all_else_has_to_be_the_same(other: dict[str, object]) -> None:
    runs = [drawn("a"), drawn("b", guidance=2.0, **other)]
    (name,) = other
    with pytest.raises(ValueError, match=f"fd of a and b: .*not comparable: {name}: "):
        check_protocols(runs, across_sampling=True)
    with pytest.raises(ValueError, match="not comparable") as refused:
        check_protocols(runs)
    assert "--across" not in str(refused.value)  # the option would not help
    data = [replace(run, conditions={"data": run.name}) for run in (drawn("a"), drawn("b"))]
    with pytest.raises(ValueError, match="conditions of a and b"):
        check_protocols(data, across_sampling=True)


def test_arms_are_named_by_their_sampling() -> None:
    def names(*runs: Run) -> list[str]:
        return [arm.label for arm in group(list(runs))]

    guided = {"guidance": 2.0, "top_k": 100}
    assert names(drawn("a"), drawn("b", **guided), drawn("c", seed=1, **guided)) == [
        "gear (guidance 1, top-k 0)",
        "gear (guidance 2, top-k 100)",
    ]
    assert names(drawn("a"), drawn("b", "continued", guidance=1.5, interval=[0.0, 0.5])) == [
        "recipe gear (guidance 1, guidance over -)",
        "recipe continued (guidance 1.5, guidance over 0 to 0.5)",
    ]
    assert names(drawn("a"), drawn("b", "continued")) == ["recipe gear", "recipe continued"]


def test_settings_of_one_name_keep_their_sections() -> None:
    steps = {"joint.steps": 200, "generator.steps": 550}
    other = replace(SLOW[0], settings=SLOW[0].settings | dict.fromkeys(steps, 100))
    arms = group([replace(SLOW[0], settings=SLOW[0].settings | steps), other])
    assert [arm.label for arm in arms] == [
        "generator.steps 550, joint.steps 200",
        "generator.steps 100, joint.steps 100",
    ]


def test_no_two_arms_have_one_name() -> None:
    """Test that no arm hides another in the charts."""
    other = [replace(SLOW[0], name="other", code="other"), replace(FAST[0], name="third")]
    assert [arm.label for arm in group([SLOW[0], *other])] == [
        "recipe llamagen_repa: slow-0",
        "recipe llamagen_repa: other",
        "recipe gear",
    ]


def test_a_metric_that_the_first_run_lacks_is_compared_among_the_others() -> None:
    def with_fid(run: Run, images: str) -> Run:
        record = {"value": 10.0, "protocol": {"reference": images}}
        return replace(run, records=run.records | {"fid": record})

    others = [with_fid(FAST[0], "a"), with_fid(FAST[1], "b")]
    with pytest.raises(ValueError, match=r"fid of fast-0 and fast-1: .*reference: 'a' against 'b'"):
        check_protocols([SLOW[0], *others])
    check_protocols([SLOW[0], others[0], with_fid(FAST[1], "a")])


def test_what_a_run_measures_of_itself_is_no_protocol() -> None:
    """Test values that depend on a run's own models: copy threshold, deviation of a floor."""

    def measured(run: Run, **of_run: float) -> Run:
        record = {"value": 0.0, "protocol": {"rule": "nearest", **of_run}}
        return replace(run, records={"memorised": record})

    check_protocols(
        [measured(SLOW[0], threshold=13.7, deviation=0.8), measured(FAST[1], threshold=13.4)]
    )
    with pytest.raises(ValueError, match="k: None against 5"):
        check_protocols([measured(SLOW[0]), measured(FAST[0], k=5)])


def test_spread() -> None:
    assert (
        mean_and_std([]),
        mean_and_std([2.0]),
        mean_and_std([1.0, 2.0, 3.0]),
        mean_and_std([100.0, 300.0]),
    ) == ("-", "2", "2.0 ± 1.0", "200 ± 141")
