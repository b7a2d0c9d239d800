"""Test the flow that compares recipes, and the artifacts of a run, on a real server."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.prefect_server import latest
from tests.support.toys import toy

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
COMPARE = (
    "import json, sys; from flows.recipes import compare_recipes; "
    "compare_recipes(**json.loads(sys.argv[1]))"
)
PUBLISH = """
import sys, pathlib
from prefect import flow
from flows import artifacts
@flow(name="publishes", persist_result=False)
def once(name):
    stages = ["validate", "sample", "evaluate", "codebook", "report"]
    artifacts.publish_results(pathlib.Path.cwd(), name, stages)
folder = pathlib.Path("reports")
once("")
(folder / "metrics.json").write_text('{"fd": 8.0}')
once("")
(folder / "protocols.json").write_text('{"fd": {"value": 8.0, "protocol": {"n": 2}}}')
once("")
once("try-1")
"""


def run(server: dict[str, str], folder: Path, code: str, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=server,
        capture_output=True,
        text=True,
        timeout=180,
    )
    return done.returncode, done.stdout + done.stderr


def commit(folder: Path) -> None:
    quiet = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["git", "add", "."], ["git", *name, "commit", "-qm", "toy"]):
        subprocess.run(command, cwd=folder, check=True, env=quiet)


def test_a_recipe_that_fails_keeps_no_other_from_running_and_what_is_done_is_not_done_again(
    server: dict[str, str], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    folder = toy(
        tmp_path / "c",
        train=f"grep recipe params.yaml >> {marks}; "
        "grep -q ste params.yaml && exit 1; cat params.yaml",
    )
    settings = "run: {seed: 5}\njoint: {recipe: none, batch: 3}\n"
    (folder / "params.yaml").write_text(settings + "data: {source: folder, root: images}\n")
    text = (folder / "dvc.yaml").read_text()
    more = "    params: [run.seed, joint.recipe]\n    deps: ['${data.root}']\n"
    (folder / "dvc.yaml").write_text(text + more)
    (folder / "images").mkdir()
    (folder / "images/cat.png").write_text("in the folder of each experiment, too")
    (folder / ".gitignore").write_text("/images\n")
    commit(folder)
    wanted = json.dumps({"recipes": ["ste", "gear"], "seeds": [3], "label": "toy"})
    code, output = run(server, folder, COMPARE, wanted)
    assert code != 0, output
    assert "1 of 2 experiments finished; failed: toy-ste-3-" in output, output
    kept = experiments(folder)
    assert kept.count("toy-gear-3-") == 1
    assert "toy-ste-3-" not in kept
    page = latest(server, "compare-recipes", 1)[0]["recipes"]
    assert re.search("toy-ste-3-[0-9a-f]{6}: failed: ", page)
    assert "none" in (folder / "params.yaml").read_text(), "the checkout stays as it is"
    nowhere = str(tmp_path / "nowhere")
    for remote in (["git", "remote", "add", "origin"], ["dvc", "remote", "add", "-d", "store"]):
        words = [sys.executable, "-m", *remote] if remote[0] == "dvc" else remote
        subprocess.run([*words, nowhere], cwd=folder, check=True, env=server)
    code, output = run(server, folder, COMPARE, wanted)
    assert code != 0
    assert re.search("toy-gear-3-[0-9a-f]{6} is there already", output)
    assert re.search("1 of 2 experiments finished; failed: toy-ste-3-.*, dvc exp push", output)
    page = latest(server, "compare-recipes", 1)[0]["recipes"]
    assert re.search("toy-ste-3-[0-9a-f]{6}: failed: ", page)
    assert "dvc exp push: failed: " in page
    assert marks.read_text().count("gear") == 1
    assert marks.read_text().count("ste") == 2
    longer = {"recipes": ["gear"], "seeds": [3], "label": "toy", "overrides": ["joint.batch=8"]}
    longer["push"] = False
    code, output = run(server, folder, COMPARE, json.dumps(longer))
    assert code == 0, output
    assert "is there already" not in output, "an experiment of other settings is not this one"
    assert experiments(folder).count("toy-gear-3-") == 2
    code, output = run(server, folder, COMPARE, json.dumps({"label": "../up"}))
    assert code != 0
    assert "label '../up': letters" in output


def experiments(folder: Path) -> str:
    """Return git's references of a checkout's experiments."""
    command = ["git", "for-each-ref", "refs/exps"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_metrics_stand_beside_the_run_before_and_samples_are_inside_their_artifact(
    server: dict[str, str], tmp_path: Path
) -> None:
    folder = toy(tmp_path / "c", one="true")
    (folder / "reports").mkdir()
    (folder / "reports/metrics.json").write_text('{"fd": 16.0}')
    (folder / "reports/validation.json").write_text(
        json.dumps(
            {
                "rows": 1,
                "failed": 1,
                "results": [
                    {"expectation": "e", "column": "[x](y)`<b>", "success": False, "unexpected": 1}
                ],
            }
        )
    )
    commit(folder)
    (folder / "reports/metrics.json").write_text('{"fd": 10.0}')
    (folder / "reports/samples.png").write_bytes(PIXEL)
    (folder / "reports/index.html").write_text("page")
    ref = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(
        ["git", "update-ref", f"refs/exps/ab/{'c' * 38}/try-1", ref], cwd=folder, check=True
    )
    code, output = run(server, folder, PUBLISH)
    assert code == 0, output
    experiment, third, second, first = latest(server, "publishes", 4)
    (row,) = json.loads(first["metrics"])
    assert row["value"] == "10"
    assert row["at HEAD"] == "16"
    (row,) = json.loads(second["metrics"])
    assert (row["value"], row["run before"], row["change"], row["at HEAD"]) == (
        "8",
        "10",
        "-20.0%",
        "16",
    )
    (row,) = json.loads(third["metrics"])
    assert (row["value"], row["run before"], row["change"], row["at HEAD"]) == (
        "8",
        "other protocol",
        "",
        "other protocol",
    )
    assert base64.b64encode(PIXEL).decode() in second["samples"]
    assert "/index.html" in second["report"]
    assert "/index.html" in second["summary"]
    assert json.loads(second["validation"])[0]["column"] == "`[x](y)'<b>`"
    (row,) = json.loads(experiment["metrics"])
    assert row["value"] == "16"
    assert "dvc exp apply try-1" in experiment["summary"]
    assert "samples" not in experiment
