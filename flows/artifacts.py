"""Publish the results of a run as Prefect artifacts: validation, metrics, samples, the report.

The sample grid is embedded in its artifact, so that it stays with its run. Pages are linked as
`make reports-server` serves them, since browsers block file:// links of web pages.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    Artifact,
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.schemas.objects import Artifact as PublishedArtifact

from flows.server import reports_url
from gear import paths
from gear.evaluation.metric_protocol import protocol_hash
from gear.git_project import files_at

METRIC_FILES = {"evaluate": paths.METRICS, "codebook": paths.CODEBOOK_METRICS}  # by their stage
PROTOCOLS = paths.REPORTS / "protocols.json"
MAX_INLINE = 2 << 20  # bytes of a picture inside an artifact
OTHER = "other protocol"  # values of different protocols are not compared


def data_remote(folder: Path) -> str:
    """Return the default DVC remote; empty if none is set."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return str(repo.config["core"].get("remote") or "")


def git_remote(folder: Path) -> str:
    """Return the git remote for experiments: origin, else the first; empty if none is set."""
    command = ["git", "remote"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    remotes = shown.stdout.split()
    return "origin" if "origin" in remotes else next(iter(remotes), "")


def as_plain_markdown(text: str) -> str:
    """Return untrusted text as inert Markdown: as code if it has special characters or links.

    Prefect's UI renders Markdown in table cells and does not decode entities, so escaping would
    not prevent a link.
    """
    line = " ".join(text.split()).replace("`", "'")
    has_address = re.search(r"//|www\.", line)  # an address becomes a link by itself
    harmless = re.fullmatch(r"[\w .,:;/%()='+-]*", line) and not has_address
    return line if harmless else f"`{line}`"


def page_url(page: Path) -> str:
    """Return the URL of a page of reports/."""
    return f"{reports_url()}/{page.relative_to(paths.REPORTS)}"


def publish_results(folder: Path, name: str, stages: Collection[str]) -> None:
    """Publish the results in `reports/` of the checkout or, with a name, of an experiment.

    Args:
        folder: The checkout.
        name: The experiment; empty for the checkout.
        stages: The stages of the run. Files that other stages make are of an earlier run, and are
            not published.
    """
    validation = _read_json(folder, paths.VALIDATION_METRICS, name)
    if validation and "validate" in stages:
        summary = f"{validation['rows']} rows, {validation['failed']} failed"
        publish_gate(validation["results"], "validation", summary)
    files = [file for stage, file in METRIC_FILES.items() if stage in stages]
    values = _metric_values(folder, name, files)
    if values:
        _metrics(folder, values, name)
    picture = _read(folder, paths.SAMPLE_GRID, name) if "sample" in stages else b""
    if picture and not (name and len(picture) > MAX_INLINE):
        publish_samples(picture, "samples", "What the generator draws, not chosen")
    if "report" in stages:
        _summary(folder, name, values, picture)


def _summary(folder: Path, name: str, values: dict[str, float], picture: bytes) -> None:
    """Publish a summary of a run, and a link to its report."""
    lines = [f"# Pipeline{f', experiment `{name}`' if name else ''}", ""]
    lines += [f"- {key}: {value:.5g}" for key, value in values.items()]
    if picture and name and len(picture) > MAX_INLINE:
        lines += ["", f"Samples: `dvc exp apply {name}`, then `{paths.SAMPLE_GRID}`"]
    elif picture:
        lines += ["", "Samples: artifact `samples`"]
    page = folder / paths.PAGE
    if name:
        lines += ["", f"Report: `dvc exp apply {name}`, then `{paths.PAGE}`"]
    elif page.is_file():
        url = page_url(paths.PAGE)
        lines += ["", f"Report: [{page.name}]({url}) (`make reports-server`), `{page.resolve()}`"]
        create_link_artifact(
            url,
            link_text="The report of this checkout",
            key="report",
            description="make reports-server",
        )
    create_markdown_artifact("\n".join(lines), key="summary")


def publish_gate(records: list[dict[str, Any]], key: str, description: str) -> None:
    """Publish a table of the gate's expectations and their results."""
    columns = ("expectation", "column", "success", "unexpected")
    rows = [{name: as_plain_markdown(str(record[name])) for name in columns} for record in records]
    create_table_artifact(rows, key=key, description=description)


def publish_samples(picture: bytes, key: str, description: str) -> None:
    """Publish a PNG inside an artifact; if it is too large, a link to the served file."""
    if len(picture) > MAX_INLINE:
        create_image_artifact(
            page_url(paths.SAMPLE_GRID), key=key, description=f"{description} (make reports-server)"
        )
    else:
        encoded = base64.b64encode(picture).decode()
        markdown = f"![samples](data:image/png;base64,{encoded})"
        create_markdown_artifact(markdown, key=key, description=description)


def _metrics(folder: Path, values: dict[str, float], name: str) -> None:
    """Publish metrics next to those of the previously published run and of HEAD."""
    before = published("metrics")
    head = _metric_values(folder, "HEAD", METRIC_FILES.values())
    protocols = _protocols(folder, name)
    head_protocols = _protocols(folder, "HEAD")
    table = []
    for key, value in values.items():
        protocol = protocols.get(key, "")
        last, last_protocol = before.get(key, ("", protocol))
        comparable = last_protocol == protocol
        at_head = f"{head[key]:.5g}" if key in head else ""
        if at_head and head_protocols.get(key, "") != protocol:
            at_head = OTHER
        table.append(
            {
                "metric": key,
                "value": f"{value:.5g}",
                "run before": last if comparable else OTHER,
                "change": _change(last, f"{value:.5g}") if comparable else "",
                "at HEAD": at_head,
                "protocol": protocol,
            }
        )
    what = f"experiment {name}" if name else "this checkout"
    create_table_artifact(
        table,
        key="metrics",
        description=f"{what}, beside the run published before it and what is committed at HEAD",
    )


def published(key: str) -> dict[str, tuple[str, str]]:
    """Return value and protocol by metric of the table last published under a key; {} if none."""
    last = Artifact.get(key)
    try:
        rows: list[dict[str, str]] = (
            json.loads(str(last.data)) if isinstance(last, PublishedArtifact) else []
        )
        return {row["metric"]: (row["value"], row["protocol"]) for row in rows}
    except (ValueError, KeyError, TypeError):  # somebody else's artifact of this name
        return {}


def _metric_values(folder: Path, revision: str, files: Iterable[Path]) -> dict[str, float]:
    values: dict[str, float] = {}
    for file in files:
        values |= _read_json(folder, file, revision) or {}
    return values


def _protocols(folder: Path, revision: str) -> dict[str, str]:
    """Return a short hash of the protocol of each metric."""
    records = _read_json(folder, PROTOCOLS, revision) or {}
    return {key: protocol_hash(record["protocol"]) for key, record in records.items()}


def _change(before: str, value: str) -> str:
    """Return the relative change; "" if there is none, since the UI shows a dash as a bullet."""
    try:
        return f"{float(value) / float(before) - 1:+.1%}"
    except (ValueError, ZeroDivisionError):
        return ""


def _read_json(folder: Path, file: Path, revision: str) -> Any:
    try:
        return json.loads(_read(folder, file, revision))
    except ValueError:
        return None


def _read(folder: Path, file: Path, revision: str) -> bytes:
    """Return a file of the checkout, or of an experiment or revision; b"" if it is missing."""
    if not revision:
        return (folder / file).read_bytes() if (folder / file).is_file() else b""
    from dvc.exceptions import DvcException

    try:
        return bytes(files_at(folder, revision).read_bytes(str(file)))
    except (DvcException, OSError):
        return b""
