"""Examine a new version of the data by `gear dataset`, and publish the verdict.

The pipeline's data stays as it is. This flow decides when, and publishes why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows import artifacts
from flows.child_commands import exit_with_worker, run_command
from gear import paths
from gear.core.errors import InputError


@flow(name="dataset", persist_result=False)
def dataset(root: str = "") -> None:
    """Examine the source that params.yaml names, in the working directory's checkout.

    A version in quarantine fails the run: `StageBadInput` if the gate refused it, `StageStopped`
    if it drifted.

    Args:
        root: Where the source lies, in place of data.root.
    """
    exit_with_worker()
    where = Path.cwd()
    if not (where / paths.PARAMS).is_file():
        raise InputError(f"{where}: no {paths.PARAMS} here: run in a checkout")
    verdict = where / paths.DATASET_VERDICT
    verdict.unlink(missing_ok=True)  # what is published below is of this run or not at all
    try:
        run_command(
            [sys.executable, "-m", "gear", "dataset", *([f"--root={root}"] if root else [])],
            where,
            get_run_logger().info,
        )
    finally:
        if verdict.is_file():
            _publish(json.loads(verdict.read_text()))


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
