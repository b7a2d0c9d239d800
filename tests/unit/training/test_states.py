"""Test that states of trainings are listed with their differences, and pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gear.core.files import exclusive_lock
from gear.process import GRACE
from gear.training.fingerprint import Identity
from gear.training.states import (
    delete_finished,
    describe_nearest,
    grace,
    list_states,
    prune_states,
    read_description,
    was_started_from,
)


def identity(batch: int) -> Identity:
    return Identity("joint", {"joint.batch": batch}, {}, {}, {}, {})


def save(root: Path, of: Identity, step: int, *, finished: bool = False) -> Path:
    folder = root / "joint" / of.fingerprint
    (folder / f"step-{step}").mkdir(parents=True)
    (folder / f"step-{step}" / "state.pt").write_bytes(b"x" * 1000)
    (folder / "latest").write_text(f"step-{step}")
    description = {**of.facts(), "step": step, "finished": finished}
    (folder / "description.json").write_text(json.dumps(description))
    return folder


def test_states_are_listed_with_step_size_and_differences(tmp_path: Path) -> None:
    folder = save(tmp_path, identity(8), 40, finished=True)
    (state,) = list_states(tmp_path, {"joint": identity(4)})
    assert (state.stage, state.step, state.folder) == ("joint", 40, folder)
    assert state.finished
    assert state.size > 1000
    assert 0 <= state.age < 600
    assert state.differences == ["joint.batch 8 -> 4"]


def test_prune_keeps_the_current_state_and_those_in_use(tmp_path: Path) -> None:
    current, held, old = (save(tmp_path, identity(batch), 2) for batch in (1, 2, 3))
    with exclusive_lock(held / "lock", "held"):
        deleted = prune_states(tmp_path, {"joint": identity(1)})
    assert [state.folder for state in deleted] == [old]
    assert current.exists()
    assert held.exists()
    assert not old.exists()


def test_a_state_that_started_from_another_is_listed_as_such_and_not_pruned(tmp_path: Path) -> None:
    plain = save(tmp_path, identity(1), 2)
    folder = plain.rename(plain.with_name(f"{plain.name}-from-3f0c"))
    (state,) = list_states(tmp_path, {"joint": identity(1)})
    assert state.all_differences() == ["--from 3f0c"]
    assert not prune_states(tmp_path, {"joint": identity(1)})
    assert prune_states(tmp_path, {"joint": identity(2)})
    assert not folder.exists()


def test_code_that_depends_on_an_absent_input_is_no_reason_to_prune(tmp_path: Path) -> None:
    def trained(teacher: str, **code: str) -> Identity:
        return Identity("joint", {}, {"data/features": teacher}, {"step.py": "1", **code}, {}, {})

    folder = save(tmp_path, trained("1234", **{"vision.py": "2"}), 2)
    assert not prune_states(tmp_path, {"joint": trained("absent")})
    assert prune_states(tmp_path, {"joint": trained("1234")}), "its teacher's code is needed now"
    assert not folder.exists()
    folder = save(tmp_path, trained("1234"), 2)
    assert not prune_states(tmp_path, {"joint": trained("absent", **{"vision.py": "2"})})
    assert prune_states(tmp_path, {"joint": trained("absent", **{"step.py": "2"})})


def test_prune_deletes_what_killed_saves_left_and_no_state_that_lost_its_pointer(
    tmp_path: Path,
) -> None:
    draft, lost, running = (tmp_path / "joint" / name for name in ("a", "b", "c"))
    for folder, state in ((draft, "step-3.partial"), (lost, "older/step-3"), (running, "x")):
        (folder / state).mkdir(parents=True)
        (folder / "lock").touch()
    with exclusive_lock(running / "lock", "held"):
        assert not prune_states(tmp_path, {"joint": identity(1)})
    assert [folder.exists() for folder in (draft, lost, running)] == [False, True, True]


def test_the_nearest_state_may_differ_in_its_steps_alone(tmp_path: Path) -> None:
    plain = save(tmp_path, identity(1), 2)
    plain.rename(plain.with_name(f"{plain.name}-2"))
    message = describe_nearest(tmp_path, identity(1))
    assert message is not None
    assert "a state of joint at step 2 with the same settings; starting" in message


def test_an_input_that_is_absent_now_is_no_reason_to_prune(tmp_path: Path) -> None:
    with_data = Identity("joint", {}, {"data/shards": "1234"}, {}, {}, {})
    folder = save(tmp_path, with_data, 2)
    assert not prune_states(
        tmp_path, {"joint": Identity("joint", {}, {"data/shards": "absent"}, {}, {}, {})}
    )
    assert folder.exists()


def test_a_state_that_lost_its_description_is_current_by_its_folder(tmp_path: Path) -> None:
    for batch in (1, 2):
        (save(tmp_path, identity(batch), 2) / "description.json").unlink()
    states = {s.folder.name: s.differences for s in list_states(tmp_path, {"joint": identity(1)})}
    assert states == {identity(1).fingerprint: [], identity(2).fingerprint: ["no description"]}


def test_a_state_that_may_be_the_current_one_is_not_pruned(tmp_path: Path) -> None:
    (save(tmp_path, identity(1), 2) / "description.json").unlink()
    known, unknown = (Identity("joint", {}, {"a": of}, {}, {}, {}) for of in ("1234", "absent"))
    assert not prune_states(tmp_path, {"joint": unknown})
    assert len(prune_states(tmp_path, {"joint": known})) == 1


def describe(folder: Path, **facts: Any) -> None:
    """Change facts in the description of a state."""
    text = json.dumps(read_description(folder) | facts)
    (folder / "description.json").write_text(text)


def started_from(root: Path, source: Path) -> Path:
    folder = save(root, identity(2), 9)
    describe(folder, started_from=read_description(source))
    return folder


def test_a_state_was_started_from_another_until_that_one_trains_on(tmp_path: Path) -> None:
    source = save(tmp_path, identity(1), 4)
    folder = started_from(tmp_path, source)
    assert was_started_from(folder, source)
    assert not was_started_from(source, folder)
    describe(source, finished=True)
    assert was_started_from(folder, source), "the weights are the same"
    describe(source, step=5)
    assert not was_started_from(folder, source)


def test_a_state_without_a_description_is_not_taken_for_the_one_started_from(
    tmp_path: Path,
) -> None:
    source = save(tmp_path, identity(1), 4)
    (source / "description.json").unlink()
    assert not was_started_from(started_from(tmp_path, source), source)


def test_an_experiment_deletes_no_finished_state_of_the_checkout(tmp_path: Path) -> None:
    own, earlier, later = (save(tmp_path, identity(n), 2, finished=True) for n in (1, 2, 3))
    for folder in (earlier, later):
        description = json.loads((folder / "description.json").read_text())
        (folder / "description.json").write_text(json.dumps(description | {"of_experiment": True}))
    delete_finished(tmp_path / "joint", but=later, of_experiment=True)
    assert [folder.exists() for folder in (own, earlier, later)] == [True, False, True]
    delete_finished(tmp_path / "joint", but=tmp_path / "joint/new", of_experiment=False)
    assert [folder.exists() for folder in (own, later)] == [False, True]


def test_a_training_gets_the_time_that_its_last_save_took_twice(tmp_path: Path) -> None:
    assert grace(tmp_path) == GRACE
    for batch, seconds in enumerate([40.0, 90.0, None, "x", -5.0]):
        description = save(tmp_path, identity(batch), 2) / "description.json"
        facts = json.loads(description.read_text()) | {"save_seconds": seconds}
        description.write_text(json.dumps(facts))
    assert grace(tmp_path) == GRACE + 180.0
    description.write_text('{"save_seconds": 1e9, "measure_seconds": 30.0}')
    assert grace(tmp_path) == GRACE + 3660.0
