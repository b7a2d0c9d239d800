"""Run `gear monitor` on a schedule: publish its history, and alert if the codebook collapsed.

It does not take the checkout's pipeline lock, since it runs at the same time as the pipeline.
"""

from __future__ import annotations

import html
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Completed, Failed, State

from flows.child_commands import exit_with_worker, run_command
from flows.stage_errors import StageStopped

SHOWN = 100  # newest rows of a history that the table shows


@flow(name="monitor", persist_result=False)
def monitor(checkout: str = ".", stop: bool = True, device: str = "cpu") -> State[Any]:
    """Measure the newest checkpoint of a training; alert if the codebook collapsed.

    Args:
        checkout: Where the pipeline runs, with its experiments (`dvc exp run --temp`, `--queue`).
        stop: Ask a training whose codebook collapsed to stop; it saves its state and fails.
        device: Where to measure: cpu, cuda or cuda:N, preferably not the training's own GPU.
    """
    exit_with_worker()
    folder = Path(checkout).resolve()
    with tempfile.TemporaryDirectory(prefix="gear-monitor-") as scratch:
        result = Path(scratch) / "result.json"
        words = ["monitor", f"--checkout={folder}", f"--device={device}", f"--result={result}"]
        command = [sys.executable, "-m", "gear", *words, *(["--stop"] if stop else [])]
        try:
            run_command(command, Path(__file__).parents[1], get_run_logger().info)
        except StageStopped:
            if not result.exists():  # it failed before it measured
                raise
        answer = json.loads(result.read_text())
    if not answer["new"]:
        return Completed(name="Skipped", message=answer["message"])
    _publish(Path(answer["history"]), answer["message"], answer["broken"])
    if answer["broken"]:
        return Failed(name="Collapsed", message=answer["message"])
    return Completed(message=answer["message"])


def _publish(history: Path, message: str, broken: str | None) -> None:
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    create_table_artifact(
        [_row(line) for line in lines[-SHOWN:]],
        key="monitor",
        description=html.escape(history.stem),
    )
    last = lines[-1]
    text = [
        f"# {'Codebook collapsed' if broken else 'Monitor'}: {last['stage']} {last['run']}",
        "",
        html.escape(message),
        "",
    ]
    text += [f"- {name}: {record['value']:.5g}" for name, record in last["metrics"].items()]
    text += [
        "",
        "How:",
        *(
            f"- {name}: {html.escape(json.dumps(record['protocol']))}"
            for name, record in last["metrics"].items()
        ),
    ]
    create_markdown_artifact("\n".join(text), key="monitor-alert" if broken else "monitor-latest")


def _row(line: dict[str, Any]) -> dict[str, str]:
    row = {
        "step": "finished" if line["step"] is None else str(line["step"]),
        "measured": line["measured"],
    }
    row |= {name: f"{record['value']:.5g}" for name, record in line["metrics"].items()}
    return {**row, "seconds": str(line["seconds"]), "alert": html.escape(line["broken"] or "")}
