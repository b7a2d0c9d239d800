"""Test which code a record of a study's run is made by."""

from __future__ import annotations

from gear.runs.revision import Locked
from gear.runs.study_records import code_hash


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
