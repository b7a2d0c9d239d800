"""Results of a run as Prefect artifacts: validation, metrics beside the run before, samples, and where the report is.

The sample grid is inside its artifact, so that it stays with the run that drew it;
pages are linked where `make reports-server` serves reports/, since browsers follow no file:// link of a web page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    Artifact,
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.services import reports_url
from gear import paths

PROTOCOLS = paths.REPORTS / "protocols.json"
MOST = 2 << 20  # bytes of a picture inside an artifact


def data_remote(folder: Path) -> str:
    """The default DVC remote; empty where none is set."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return str(repo.config["core"].get("remote") or "")


def git_remote(folder: Path) -> str:
    """The git remote that experiments go to: origin, else the first; empty where there is none."""
    shown = subprocess.run(
        ["git", "remote"], cwd=folder, capture_output=True, text=True, check=False
    ).stdout.split()
    return "origin" if "origin" in shown else (shown or [""])[0]


def plain(text: str) -> str:
    """Text of any origin as markdown that shows it and does nothing else; as code where it could.

    Prefect's UI shows entities as they are written and renders markdown in table cells, so neither would keep a link from being one.
    """
    line = " ".join(text.split()).replace("`", "'")
    harmless = re.fullmatch(r"[\w .,:;/%()='+-]*", line) and not re.search(
        r"//|www\.", line
    )  # a bare address becomes a link
    return line if harmless else f"`{line}`"


def page_url(page: Path) -> str:
    """Where a page of reports/ is served."""
    return f"{reports_url()}/{page.relative_to(paths.REPORTS)}"


def results(folder: Path, name: str) -> None:
    """Publish what lies in `reports/` of the checkout, or of an experiment by its name."""
    validation, metrics, codebook = (
        _read(folder, file, name)
        for file in (paths.VALIDATION_METRICS, paths.METRICS, paths.CODEBOOK_METRICS)
    )
    if validation:
        gate(
            validation["results"],
            "validation",
            f"{validation['rows']} rows, {validation['failed']} failed",
        )
    found = {**(metrics or {}), **(codebook or {})}
    if found:
        _metrics(folder, found, name)
    drawn = samples(
        _bytes(folder, paths.SAMPLE_GRID, name), "samples", "What the generator draws, not chosen"
    )
    lines = [f"# Pipeline{f', experiment `{name}`' if name else ''}", ""]
    lines += [f"- {key}: {value:.5g}" for key, value in found.items()]
    lines += ["", "Samples: artifact `samples`"] if drawn else []
    page = folder / paths.PAGE
    if name:
        lines += ["", f"Report: `dvc exp apply {name}`, then `{paths.PAGE}`"]
    elif page.is_file():
        lines += [
            "",
            f"Report: [{paths.PAGE.name}]({page_url(paths.PAGE)}) (`make reports-server`), `{page.resolve()}`",
        ]
        create_link_artifact(
            page_url(paths.PAGE),
            link_text="The report of this checkout",
            key="report",
            description="make reports-server",
        )
    create_markdown_artifact("\n".join(lines), key="summary")


def gate(records: list[dict[str, Any]], key: str, description: str) -> None:
    """A table of what the gate expected and found."""
    rows = [
        {name: plain(str(row[name])) for name in ("expectation", "column", "success", "unexpected")}
        for row in records
    ]
    create_table_artifact(rows, key=key, description=description)


def samples(picture: bytes, key: str, description: str) -> bool:
    """A PNG inside an artifact; where it is too large for that, a link to where it is served. False without one."""
    if not picture:
        return False
    if len(picture) > MOST:
        create_image_artifact(
            page_url(paths.SAMPLE_GRID), key=key, description=f"{description} (make reports-server)"
        )
    else:
        shown = f"![samples](data:image/png;base64,{base64.b64encode(picture).decode()})"
        create_markdown_artifact(shown, key=key, description=description)
    return True


def _metrics(folder: Path, found: dict[str, float], name: str) -> None:
    """A table beside the run published before, and beside what is committed at HEAD, where they were measured alike."""
    before, head = (
        published("metrics"),
        {
            **(_read(folder, paths.METRICS, "HEAD") or {}),
            **(_read(folder, paths.CODEBOOK_METRICS, "HEAD") or {}),
        },
    )
    protocols, head_protocols = _protocols(folder, name), _protocols(folder, "HEAD")
    table = []
    for key, value in found.items():
        protocol = protocols.get(key, "")
        last = before.get(key, ("", protocol))
        alike = last[1] == protocol
        table.append(
            {
                "metric": key,
                "value": f"{value:.5g}",
                "run before": last[0] if alike else "other protocol",
                "change": _change(last[0], f"{value:.5g}") if alike else "",
                "at HEAD": ""
                if key not in head
                else f"{head[key]:.5g}"
                if head_protocols.get(key, "") == protocol
                else "other protocol",
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
    """Value and protocol by metric of the table last published under a key; none where there is none."""
    last = Artifact.get(key)
    try:
        return (
            {row["metric"]: (row["value"], row["protocol"]) for row in json.loads(str(last.data))}
            if last
            else {}
        )
    except (ValueError, KeyError, TypeError):  # somebody else's artifact of this name
        return {}


def _protocols(folder: Path, revision: str) -> dict[str, str]:
    """A short name by metric of how it was measured: values of different ones do not compare."""
    records = _read(folder, PROTOCOLS, revision) or {}
    return {
        key: hashlib.sha256(json.dumps(one["protocol"], sort_keys=True).encode()).hexdigest()[:8]
        for key, one in records.items()
    }


def _change(before: str, value: str) -> str:
    """Of the values as shown; empty, not a dash, where there is none: the UI makes a bullet of a dash."""
    try:
        share = float(value) / float(before) - 1
    except (ValueError, ZeroDivisionError):
        return ""
    return f"{share:+.1%}"


def _read(folder: Path, file: Path, revision: str) -> Any:
    """A small JSON report of the checkout, or of a revision; None where it is not there."""
    try:
        if not revision:
            return json.loads((folder / file).read_text())
        shown = subprocess.run(
            ["git", "show", f"{_resolve(folder, revision)}:{file}"],
            cwd=folder,
            capture_output=True,
            check=True,
        )
        return json.loads(shown.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        return None


def _bytes(folder: Path, file: Path, revision: str) -> bytes:
    """An out of the checkout, or of an experiment from DVC's cache; empty where it is not there."""
    if not revision:
        return (folder / file).read_bytes() if (folder / file).is_file() else b""
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        return dvc.api.read(str(file), repo=str(folder), rev=_resolve(folder, revision), mode="rb")
    except (DvcException, OSError):
        return b""


def _resolve(folder: Path, revision: str) -> str:
    """A commit of an experiment's name (DVC keeps them under refs/exps) or of any git revision."""
    shown = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return next(
        (ref for ref in shown.stdout.split() if ref.rsplit("/", 1)[-1] == revision), revision
    )
