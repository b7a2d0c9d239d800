"""Test what the Prefect UI shows of runs: names, tags, progress, notifications, forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.training_progress import CHATTER
from tests.flows.test_dataset_flow import images
from tests.flows.test_pipeline import finish
from tests.support.prefect_server import latest, post
from tests.support.settings import tiny_settings, write_params
from tests.support.toys import free_port, toy
from tests.support.wait import wait_until

TRAIN = 'printf "%b" "joint 5/10  ntp 3.2  fd <b>180</b>\\njoint 10/10  ntp 3.1\\nloaded 3/0  x\\n"'


def newest(server: dict[str, str], flow: str) -> dict[str, Any]:
    wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = post(server, "flow_runs/filter", wanted)
    return run


def test_a_run_is_named_and_tagged_by_what_it_runs_and_its_training_is_followed(
    server: dict[str, str], tmp_path: Path
) -> None:
    folder = toy(tmp_path / "c", joint=TRAIN)
    (folder / "params.yaml").write_text(
        "joint: {recipe: gear}\ntokenizer: {quantizer: lfq}\ndata: {source: [a]}\n"
    )
    code, output = finish(server, folder, targets=["joint"])
    assert code == 0, output
    run = newest(server, "pipeline")
    assert run["name"] == "params.yaml: joint"
    assert {"recipe: gear", "quantizer: lfq"} <= set(run["tags"])
    wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    kept = {a["key"]: a for a in post(server, "artifacts/filter", wanted)}
    assert float(kept["training-joint"]["data"]) == 100
    assert kept["training-joint"]["description"] == "joint, step 10 of 10: ntp 3.1"
    assert "joint 5/10" in output
    assert "git add" not in output
    assert "To track the changes" not in output


def test_only_chatter_is_left_out() -> None:
    assert CHATTER.fullmatch("\tgit add dvc.lock")
    assert CHATTER.fullmatch("")
    for line in ("Running stage 'joint':", "gear joint: git add more memory", "ERROR: failed"):
        assert not CHATTER.fullmatch(line)


def test_a_training_goes_on_while_the_server_is_away() -> None:
    code = """
from flows.training_progress import TrainingProgress
show = TrainingProgress(print)
show("joint 1/2  ntp 3.0")
show("joint 2/2  ntp 2.0")
"""
    env = os.environ | {
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "joint 1/2" in done.stdout
    assert "joint 2/2" in done.stdout
    assert "progress was not published" in done.stdout


def test_the_ui_offers_presets_recipes_and_stages() -> None:
    code = """
import json
from prefect.utilities.callables import parameter_schema
from flows.pipeline import pipeline
from flows.recipes import compare_recipes
print(json.dumps([parameter_schema(one.fn).model_dump() for one in (pipeline, compare_recipes)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    pipeline, recipes = (one["properties"] for one in json.loads(done.stdout.splitlines()[-1]))
    assert {"", "quickstart", "tiny"} <= set(pipeline["preset"]["enum"])
    assert {"ingest", "joint", "report"} <= set(pipeline["targets"]["anyOf"][0]["items"]["enum"])
    assert {"gear", "ste"} <= set(recipes["recipes"]["anyOf"][0]["items"]["enum"])


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a webhook server; yield its URL and the list of messages that it receives."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/hook", told
    finally:
        listening.shutdown()


def apply(server: dict[str, str], url: str) -> subprocess.CompletedProcess[str]:
    code = "from flows.notifications import apply_automations; print(apply_automations())"
    env = {**server, "GEAR_NOTIFY_URL": url}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_a_failed_run_is_told_with_its_reason(server: dict[str, str], tmp_path: Path) -> None:
    assert "no notifications" in apply(server, "").stdout
    with webhook() as (url, told):
        for _ in range(2):  # the second call updates the automations
            assert "gear-run-failed" in apply(server, url).stdout
        names = [one["name"] for one in post(server, "automations/filter", {})]
        assert sorted(names) == sorted(set(names)), "none twice"
        assert "notifications as before" in apply(server, "").stdout
        blocks = json.dumps(post(server, "block_documents/filter", {}))
        assert "gear-notify" in blocks
        assert url not in blocks, "the address is a secret"
        code, _ = finish(server, toy(tmp_path / "c", bad="echo 'gear bad it is wrong' >&2; exit 2"))
        assert code != 0
        assert wait_until(lambda: told, 60)
    assert "pipeline: params.yaml Failed" in told[0]["text"]
    assert "gear bad it is wrong" in told[0]["text"]


def test_a_webhook_that_is_none_is_one_line(server: dict[str, str]) -> None:
    assert "GEAR_NOTIFY_URL: not the http(s) address" in apply(server, "file:///etc/passwd").stderr


DATASET = "import sys; from flows.dataset import dataset; dataset(root=sys.argv[1], wait_hours=0.1)"


@pytest.mark.slow
@pytest.mark.parametrize("accept", [True, False])
def test_a_drifted_version_waits_for_a_decision(
    server: dict[str, str], tmp_path: Path, accept: bool
) -> None:
    checkout = tmp_path / "c"
    checkout.mkdir()
    write_params(checkout, tiny_settings(data={"size": 16}, host={"workers": 1}))

    def start(root: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", DATASET, root],
            cwd=checkout,
            env=server,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = start(images(tmp_path / "one", 1, 1.0))
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    second = start(images(tmp_path / "dark", 2, 0.5))
    try:
        assert wait_until(lambda: newest(server, "dataset")["state"]["type"] == "PAUSED", 120)
        run = newest(server, "dataset")
        assert "brightness drifted" in latest(server, "dataset", 1)[0]["dataset-verdict"]
        answer = {"accept": accept, "reason": "a new camera"}
        post(server, f"flow_runs/{run['id']}/resume", {"run_input": answer})
        output, _ = second.communicate(timeout=120)
    finally:
        second.kill()
    assert (second.returncode == 0) is accept, output
    assert f"{'accepted' if accept else 'refused'}: a new camera" in output
    accepted = pd.read_parquet(checkout / "data/versions/accepted.parquet").attrs["version"]
    assert (accepted in output) is accept, output
