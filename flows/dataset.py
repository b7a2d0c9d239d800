"""Check a new version of the data with `gear dataset`, and publish the verdict.

The pipeline's data is not changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, pause_flow_run
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput

from flows import artifacts
from flows.child_commands import exit_with_worker, run_command
from flows.stage_errors import StageStopped
from gear import paths
from gear.core.errors import InputError


class Decision(RunInput):
    """Form of a paused run: whether to accept a version that drifted."""

    accept: bool = False
    reason: str = ""


@flow(name="dataset", persist_result=False)
def dataset(root: str = "", wait_hours: float = 0.0) -> None:
    """Check the source that params.yaml names, in the checkout of the working directory.

    A version in quarantine fails the run: `StageBadInput` if the gate refused it, `StageStopped`
    if it drifted and nobody accepts it.

    Args:
        root: Location of the source, instead of data.root.
        wait_hours: How long the run pauses if a version drifted, with a form to accept it; 0 to
            fail at once.
    """
    exit_with_worker()
    where = Path.cwd()
    if not (where / paths.PARAMS).is_file():
        raise InputError(f"{where}: no {paths.PARAMS} here: run in a checkout")
    verdict = where / paths.DATASET_VERDICT
    published = False
    verdict.unlink(missing_ok=True)  # only a verdict of this run is published below
    try:
        run_command(
            [sys.executable, "-m", "gear", "dataset", *([f"--root={root}"] if root else [])],
            where,
            get_run_logger().info,
        )
    except StageStopped:
        found = json.loads(verdict.read_text()) if verdict.is_file() else {}
        drifted = found.get("verdict") == "quarantined" and bool(found.get("columns"))
        if not (drifted and wait_hours > 0):
            raise
        published = True
        _publish(found)
        if not _accepted(found, wait_hours):
            raise
        accept = [sys.executable, "-m", "gear", "dataset", f"--accept={found['version']}"]
        run_command(accept, where, get_run_logger().info)
        published = False  # the verdict is another one now
    finally:
        if verdict.is_file() and not published:
            _publish(json.loads(verdict.read_text()))


def _accepted(verdict: dict[str, Any], wait_hours: float) -> bool:
    """Pause until somebody decides or the time is over. Returns whether it is accepted."""
    reasons = "\n".join(f"- {artifacts.as_plain_markdown(line)}" for line in verdict["reasons"])
    form = Decision.with_initial_data(
        description=f"Data version {verdict['version']} drifted:\n\n{reasons}\n\nAccept it?"
    )
    try:
        decision = pause_flow_run(wait_for_input=form, timeout=round(wait_hours * 3600))
    except FlowPauseTimeout:
        get_run_logger().info("nobody decided within %g hours", wait_hours)
        return False
    answer = "accepted" if decision.accept else "refused"
    get_run_logger().info(f"{answer}: {' '.join(decision.reason.split()) or 'no reason given'}")
    return bool(decision.accept)


def _publish(verdict: dict[str, Any]) -> None:
    lines = [f"# Data version {verdict['version']}: {verdict['verdict']}", ""]
    lines += [f"- {artifacts.as_plain_markdown(reason)}" for reason in verdict["reasons"]]
    lines += [
        "",
        f"Source: {artifacts.as_plain_markdown(' '.join((verdict['source'], verdict['root'])))}",
    ]
    lines += (
        [f"Compared with version {verdict['compared_with']}"] if verdict["compared_with"] else []
    )
    if verdict["verdict"] == "quarantined":
        lines += ["", f"It waits in `{paths.QUARANTINE / verdict['version']}`"]
    create_markdown_artifact(
        "\n".join(lines),
        key="dataset-verdict",
        description=f"{verdict['version']}: {verdict['verdict']}",
    )
    if gate := verdict.get("gate"):
        failed = sum(not record["success"] for record in gate)
        artifacts.publish_gate(
            gate, "dataset-validation", f"{verdict['rows']} rows, {failed} failed"
        )
    if verdict["columns"]:
        table = [
            {
                "column": c["column"],
                "distance": f"{c['distance']:.3g}",
                "threshold": f"{c['threshold']:.3g}",
                "drifted": "yes" if c["drifted"] else "",
                "change": artifacts.as_plain_markdown(c["change"]),
            }
            for c in verdict["columns"]
        ]
        create_table_artifact(
            table,
            key="dataset-drift",
            description=f"{verdict['version']} beside {verdict['compared_with']}",
        )
        create_link_artifact(
            artifacts.page_url(Path(verdict["page"])),
            link_text="Evidently's page",
            key="dataset-drift-page",
        )
