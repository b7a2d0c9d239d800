"""Test which records of a study's runs are comparable, and by which code they are made."""

from __future__ import annotations

from typing import Any

from gear.runs.revision import Locked
from gear.runs.study_records import Record, code_hash, unlike
from tests.support.study_records import record


def test_the_code_of_a_record_is_that_of_stages_whose_outputs_it_has() -> None:
    def hashed(training: str = "a", page: str = "b", gate: str = "c") -> str:
        code = {"joint": training, "report": page, "validate": gate}
        return code_hash(
            {
                name: Locked(name, "", {}, {f"gear/stages/{name}.py": md5, "data/x": "d"}, {})
                for name, md5 in code.items()
            }
        )

    assert hashed(page="e") == hashed(gate="e") == hashed()
    assert hashed(training="e") != hashed()


def test_runs_that_started_from_different_warm_tokenizers_are_no_pair() -> None:
    def run(arm: str, **fields: Any) -> Record:
        settings = {"joint.recipe": arm, "tokenizer.codes": 64} | fields.pop("settings", {})
        return record(arm, 0, [5, 4, 3, 2, 1], settings=settings, **fields)

    rows, others = ([{"step": 1, "loss/l1": value}] for value in (0.5, 0.25))
    reason = "started from another warm tokenizer"
    assert unlike(run("a", tokenizer="1.dir"), run("b", tokenizer="2.dir")) == reason
    assert unlike(run("a", tokenizer="1.dir"), run("b", tokenizer="1.dir")) == ""
    assert unlike(run("a", warm_up=rows), run("b", warm_up=others, tokenizer="1.dir")) == reason
    assert unlike(run("a", warm_up=rows), run("b", warm_up=rows, tokenizer="1.dir")) == ""
    larger = run("b", tokenizer="2.dir", settings={"tokenizer.codes": 128})
    assert unlike(run("a", tokenizer="1.dir"), larger) == "", "the arm is another warm-up"
