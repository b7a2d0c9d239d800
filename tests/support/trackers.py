"""Read logged values back with the trackers' own readers."""

from __future__ import annotations

import json
from pathlib import Path

# steps and values by name, in the order they were logged
Points = dict[str, list[tuple[int, float]]]


def live_points(folder: Path) -> Points:
    """Return what DVCLive wrote."""
    found: Points = {}
    for file in folder.rglob("*.tsv"):
        name = file.relative_to(folder / "plots/metrics").with_suffix("").as_posix()
        lines = file.read_text().splitlines()[1:]
        found[name] = [(int(s), float(v)) for s, v in (line.split("\t") for line in lines)]
    return found


def tensorboard_points(home: Path) -> Points:
    """Return the scalars of the only run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (home / "tensorboard").iterdir()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def mlflow_points(home: Path) -> Points:
    """Return the metrics of the only run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gear")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def wandb_points(home: Path) -> Points:
    """Return the history of the only offline run."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (file,) = home.glob("wandb/offline-run-*/*.wandb")
    store, found = DataStore(), Points()
    store.open_for_scan(str(file))
    while data := store.scan_data():
        record = Record.FromString(bytes(data))
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            if not name.startswith("_"):
                step = record.history.step.num
                found.setdefault(name, []).append((step, float(json.loads(item.value_json))))
    return found
