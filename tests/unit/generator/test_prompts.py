"""Test which captions are drawn for the report."""

from __future__ import annotations

from gear.generator.prompts import choose_prompts


def test_validation_captions_that_are_drawn_are_held_out() -> None:
    train = ["a dog", "a cat"]
    val = ["a dog"] * 20 + [f"held out {number}" for number in range(4)]
    kinds = {one.caption: one.kind for one in choose_prompts(["a  cat", "a bird"], train, val)}
    assert kinds == {
        "a cat": "seen in training",
        "a bird": "new",
        **{f"held out {number}": "held out" for number in range(4)},
    }


def test_without_held_out_captions_others_are_drawn() -> None:
    chosen = choose_prompts([], ["a dog", "a cat"], ["a cat", "a dog", "a cat"])
    assert {one.kind for one in chosen} == {"seen in training"}
    assert len(chosen) == 2
