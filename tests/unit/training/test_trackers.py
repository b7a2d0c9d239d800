"""Test that trackers hold each step once after kills, and never end a training."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gear.core.errors import InputError
from gear.core.host_config import require_trackers
from gear.params import load_for_stage
from gear.training.trackers import Row, TrackedRun, Trackers
from tests.support.settings import tiny_settings, write_params
from tests.support.toys import free_port
from tests.support.trackers import live_points, mlflow_points, tensorboard_points

ROWS = [{"step": s, "loss/ntp": 5.0 - s, "time/compute": 0.5} for s in (0, 2, 4, 6)]
ALL = {name: [(row["step"], row[name]) for row in ROWS] for name in ("loss/ntp", "time/compute")}


def tracked(folder: Path) -> TrackedRun:
    (folder / "state").mkdir(exist_ok=True)
    return TrackedRun(
        "joint",
        "joint gear tiny",
        "0123456789abcdef",
        {"joint": {"steps": 6, "recipe": "gear"}},
        {"recipe": "gear", "data/shards": "feed"},
        live=folder / "live/joint",
        state=folder / "state",
        home=folder / "home",
    )


def log(
    names: list[str], folder: Path, rows: list[Row], earlier: list[Row], name: str = ""
) -> Trackers:
    run = tracked(folder)
    trackers = Trackers(names, replace(run, name=name or run.name), earlier)
    for row in rows:
        trackers.log(row)
    return trackers


def test_dvclive_and_tensorboard_hold_each_step_once_after_a_kill(tmp_path: Path) -> None:
    names = ["dvclive", "tensorboard"]
    log(names, tmp_path, ROWS[:3], [])  # killed after step 4, the state is that of step 2
    (events,) = (tmp_path / "home").rglob("events.*")
    events.write_bytes(events.read_bytes()[:-7])
    trackers = log(names, tmp_path, ROWS[2:], ROWS[:2], name="joint gear tiny+1")
    trackers.close(finished=True)
    assert live_points(tmp_path / "live/joint") == ALL
    assert tensorboard_points(tmp_path / "home") == ALL


def test_a_server_of_tensorboard_that_runs_forgets_what_is_trained_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(["tensorboard"], tmp_path, [*ROWS[:2], {"step": 5, "loss/ntp": 9.0}], [])
    (folder,) = (tmp_path / "home/tensorboard").iterdir()
    assert folder.name == "joint-gear-tiny-01234567"
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/ntp")] == [0, 2, 5]
    log(["tensorboard"], tmp_path, ROWS[2:], ROWS[:2]).close(finished=True)
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/ntp")] == ALL["loss/ntp"]
    text = events.Tensors("settings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert '"recipe": "gear"' in text
    assert '"data/shards": "feed"' in text


def test_a_shorter_training_leaves_the_tensorboard_log_of_the_longer_one(tmp_path: Path) -> None:
    log(["tensorboard"], tmp_path, ROWS, []).close(finished=True)
    (events,) = (tmp_path / "home").rglob("events.*")
    before = events.read_bytes()
    shorter = tracked(tmp_path)
    shorter = replace(shorter, state=shorter.state.with_name(f"{shorter.run}-2"))
    Trackers(["tensorboard"], shorter, []).close(finished=True)
    assert events.read_bytes() == before
    folders = {folder.name for folder in (tmp_path / "home/tensorboard").iterdir()}
    assert folders == {"joint-gear-tiny-01234567", "joint-gear-tiny-01234567-2"}


def test_mlflow_holds_each_step_once_after_a_kill(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    log(["mlflow"], tmp_path, ROWS[:1], [])
    # step 2 is in the state and was not sent; step 4 is sent twice
    log(["mlflow"], tmp_path, ROWS[2:3], ROWS[:2])
    client = MlflowClient(tracking_uri=f"sqlite:///{(tmp_path / 'home/mlflow.db').resolve()}")
    run_id = (tmp_path / "state/mlflow-run").read_text()
    assert client.get_run(run_id).info.status == "RUNNING"
    log(["mlflow"], tmp_path, ROWS[2:], ROWS[:2]).close(finished=True)
    assert mlflow_points(tmp_path / "home") == ALL
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "joint gear tiny"
    assert run.data.params == {"joint.steps": "6", "joint.recipe": "gear"}
    assert run.data.tags["data/shards"] == "feed"
    client.delete_run(run_id)  # a run that somebody deleted is made anew
    log(["mlflow"], tmp_path, ROWS[3:], ROWS[:3])
    assert mlflow_points(tmp_path / "home") == ALL


def test_a_server_that_is_away_is_left_out_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    trackers = log(["dvclive", "mlflow"], tmp_path, ROWS, [])
    trackers.close(finished=True)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "left out" in line)
    assert line.startswith("joint: mlflow is left out from here on (")
    assert live_points(tmp_path / "live/joint") == ALL


def test_a_tracker_that_fails_in_a_training_is_left_out_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trackers = log(["dvclive", "tensorboard"], tmp_path, ROWS[:2], [])
    for file in (tmp_path / "live/joint/plots/metrics/loss").iterdir():
        file.unlink()
        file.mkdir()
    for row in ROWS[2:]:
        trackers.log(row)
    trackers.close(finished=True)
    assert capsys.readouterr().err.count("joint: dvclive is left out from here on (") == 1
    assert tensorboard_points(tmp_path / "home") == ALL


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_one_line_that_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    require_trackers(["dvclive", name])
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as raised:
        require_trackers(["dvclive", name])
    assert f"pip install 'gear-autoregression[{name}]'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_package_stops_trainings_and_no_other_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_settings(host={"trackers": ["wandb"]}))
    monkeypatch.setitem(sys.modules, "wandb", None)
    load_for_stage("sample")
    with pytest.raises(InputError, match="the package of wandb is not installed"):
        load_for_stage("joint")
