"""Run the missing runs of a study on a schedule, and publish the verdicts as an artifact."""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.child_commands import checkout_lock, exit_with_worker, run_command
from gear.core.errors import InputError


@flow(name="study", persist_result=False)
def study(file: str = "studies/openmoji.yaml", jobs: int = 2) -> None:
    """Run the arms and seeds of a study that have no record yet, and write its page.

    If a run fails, the others still run, and this flow fails at the end.

    Args:
        file: The study file, in the checkout.
        jobs: Experiments at a time.
    """
    exit_with_worker()
    folder = Path.cwd()
    if not (folder / "dvc.yaml").is_file():
        raise InputError(f"{folder}: no dvc.yaml here: run in a checkout")
    logger = get_run_logger()
    lines: list[str] = []

    def show(line: str) -> None:
        logger.info(line)
        lines.append(line)

    command = [sys.executable, "-m", "gear", "study", file, f"--jobs={jobs}"]
    try:
        with checkout_lock(folder):
            run_command(command, folder, show)
    finally:
        text = "\n".join(
            ["# Study", "", "```", *(line.replace("```", "") for line in lines), "```"]
        )
        create_markdown_artifact(text, key="study", description=Path(file).name)
