"""Results of a run as Prefect artifacts: validation, metrics against the run before, and where the report is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from gear import paths


def data_remote(folder: Path) -> str:
    """The default DVC remote; empty where none is set."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return str(repo.config["core"].get("remote") or "")


def git_remote(folder: Path) -> str:
    """The git remote that experiments go to: origin, else the first; empty where there is none."""
    shown = subprocess.run(["git", "remote"], cwd=folder, capture_output=True, text=True, check=False).stdout.split()
    return "origin" if "origin" in shown else (shown or [""])[0]


def results(folder: Path, name: str) -> None:
    """Publish what lies in `reports/` of the checkout, or of an experiment by its name."""
    revision = name or ""
    validation, metrics, codebook = (
        _read(folder, file, revision) for file in (paths.VALIDATION_METRICS, paths.METRICS, paths.CODEBOOK_METRICS)
    )
    before = {**(_read(folder, paths.METRICS, "HEAD") or {}), **(_read(folder, paths.CODEBOOK_METRICS, "HEAD") or {})}
    if validation:
        rows = [{key: str(row[key]) for key in ("expectation", "column", "success", "unexpected")} for row in validation["results"]]
        create_table_artifact(rows, key="validation", description=f"{validation['rows']} rows, {validation['failed']} failed")
    found = {**(metrics or {}), **(codebook or {})}
    if found:
        table = [{"metric": k, "value": f"{v:.5g}", "at HEAD": f"{before[k]:.5g}" if k in before else "-"} for k, v in found.items()]
        create_table_artifact(table, key="metrics", description="this run beside the one committed at HEAD")
    page = (folder / paths.PAGE).resolve()
    lines = [f"# Pipeline{f', experiment `{name}`' if name else ''}", ""]
    lines += [f"- {key}: {value:.5g}" for key, value in found.items()]
    lines += ["", f"Report: `dvc exp apply {name}`, then `{paths.PAGE}`" if name else f"Report: `{page}`"]
    create_markdown_artifact("\n".join(lines), key="summary")


def _read(folder: Path, file: Path, revision: str) -> Any:
    """A small JSON report of the checkout, or of a revision; None where it is not there."""
    try:
        if not revision:
            return json.loads((folder / file).read_text())
        shown = subprocess.run(["git", "show", f"{_resolve(folder, revision)}:{file}"], cwd=folder, capture_output=True, check=True)
        return json.loads(shown.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        return None


def _resolve(folder: Path, revision: str) -> str:
    """A commit of an experiment's name (DVC keeps them under refs/exps) or of any git revision."""
    shown = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"], cwd=folder, capture_output=True, text=True, check=False
    )
    return next((ref for ref in shown.stdout.split() if ref.rsplit("/", 1)[-1] == revision), revision)
