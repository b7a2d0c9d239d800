"""Check versions of the data: ingest, data gate, drift from the last accepted version, verdict.

The pipeline's outputs are not touched: a version is ingested to data/incoming. Of the last accepted
version only a small table is kept, since `dvc repro ingest` makes its shards. A refused version is
moved to data/quarantine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from gear import paths
from gear.core.errors import InputError, StageFailed
from gear.core.files import atomic_file, drafts_of, exclusive_lock, read_json, write_json
from gear.core.host_config import HostConfig
from gear.data.shards import load_manifest
from gear.ingest.config import DataConfig
from gear.ingest.image_headers import FORMATS
from gear.ingest.split import Refused, ingest_source
from gear.validation import dataset_drift
from gear.validation.expectations import frame, validate

ACCEPTED = paths.VERSIONS / "accepted.parquet"  # its attrs: the identity of the version
TABLE = "table.parquet"  # in quarantine, of a version that drifted but passed the gate
VERDICT = "verdict.json"


def check(data: DataConfig, root: str, host: HostConfig, seed: int) -> str:
    """Check the version of the data at the configured source, and write reports/dataset.json.

    Args:
        data: The configured source.
        root: Another root for a source of the same kind, or for an image folder if the packaged
            images are configured; empty for the configured root.
        host: Where ingest decodes.
        seed: Of the bootstrap for the drift thresholds.

    Returns:
        The verdict in words.

    Raises:
        InputError: if the source cannot be read, or ingest or the gate refuses the version.
        StageFailed: if it drifted from the last accepted version.
    """
    if root:  # the packaged images have no other root
        kind = "folder" if data.source == "openmoji" else data.source
        data = data.model_copy(update={"root": root, "source": kind})
    with _incoming():
        verdict: dict[str, Any] = {"source": data.source, "root": data.root}
        verdict |= {"compared_with": "", "columns": [], "page": ""}
        try:
            ingest_source(data, paths.INCOMING, host)
        except Refused as refused:
            content = f"{refused}{refused.rejects}"
            verdict["version"] = f"refused-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
            message = _quarantine(verdict, [str(refused)], refused.rejects)
            raise InputError(message) from None
        manifest = load_manifest(paths.INCOMING)
        rows = frame(paths.INCOMING, manifest["size"])
        identity = _identity(rows, manifest)
        verdict |= {name: manifest[name] for name in ("classes", "rejected")}
        verdict |= {"version": identity["version"], "rows": len(rows)}
        verdict["gate"] = validate(rows, manifest, data, paths.DRIFT_PAGES / "gate")
        if failed := [record for record in verdict["gate"] if not record["success"]]:
            raise InputError(_quarantine(verdict, [_failure(record) for record in failed]))
        reference = _last_accepted(manifest["size"])
        if reference is not None:
            verdict["compared_with"] = reference.attrs["version"]
            if verdict["version"] == verdict["compared_with"]:
                return _conclude(verdict, "unchanged", "it is the last accepted version")
        sizes = _original_sizes(data, rows)
        table = dataset_drift.table(paths.INCOMING, rows, manifest["classes"], sizes)
        table.attrs = identity
        return _judge(verdict, reference, table, seed)


def accept(version: str) -> str:
    """Accept a version that is in quarantine only because it drifted. Raises `InputError`."""
    with _incoming():
        waiting = sorted(file.parent.name for file in paths.QUARANTINE.glob(f"*/{TABLE}"))
        if version not in waiting:
            known = f"those that only drifted: {', '.join(waiting)}"
            raise InputError(
                f"--accept {version!r}: {known if waiting else 'none in quarantine only drifted'}; "
                "one that the gate refused has to be mended at its source"
            )
        folder = paths.QUARANTINE / version
        verdict = read_json(folder / VERDICT)
        reason = f"by hand, though {'; '.join(verdict['reasons'])}"
        message = _accept(verdict, reason, pd.read_parquet(folder / TABLE))
        shutil.rmtree(folder)
        return message


@contextmanager
def _incoming() -> Iterator[None]:
    """Lock data/incoming, and empty it before and after the block."""
    message = f"{paths.INCOMING}: another check of a data version works here: wait for it"
    with exclusive_lock(paths.WORK / "dataset.lock", message):
        shutil.rmtree(paths.INCOMING, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(paths.INCOMING, ignore_errors=True)
            for draft in drafts_of(paths.INCOMING):
                shutil.rmtree(draft, ignore_errors=True)


def _judge(
    verdict: dict[str, Any], reference: pd.DataFrame | None, table: pd.DataFrame, seed: int
) -> str:
    if reference is None:
        return _accept(verdict, "nothing to compare with: the first version", table)
    page = paths.DRIFT_PAGES / f"dataset-{verdict['version']}.html"
    verdict["columns"] = dataset_drift.compare(reference, table, seed, page)
    verdict["page"] = str(page)
    reasons = [
        f"{column['column']} drifted by {column['distance']:.3g}, "
        f"over {column['threshold']:.3g} ({column['change']})"
        for column in verdict["columns"]
        if column["drifted"]
    ]
    if reasons:
        table.to_parquet(paths.INCOMING / TABLE)
        raise StageFailed(
            f"{_quarantine(verdict, reasons)}; "
            f"if it is meant so: `gear dataset --accept {verdict['version']}`"
        )
    return _accept(verdict, f"no column drifted from version {verdict['compared_with']}", table)


def _identity(rows: pd.DataFrame, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what identifies a version, whatever its source, and its name, a hash of that."""
    columns = rows[["split", "key", "label", "caption", "sha256"]]
    content = columns.to_csv(index=False, lineterminator="\n")
    identity = {name: manifest[name] for name in ("size", "classes", "train", "val")}
    identity["rows_sha256"] = hashlib.sha256(content.encode()).hexdigest()
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return identity | {"version": name}


def _original_sizes(data: DataConfig, rows: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Return width and height of the original files by key; only image folders have them."""
    if data.source != "folder":
        return {}
    sizes = {}
    for key in rows["key"].iloc[dataset_drift.representative_rows(rows["key"])]:
        with Image.open(Path(data.root) / key, formats=FORMATS) as image:
            sizes[key] = image.size
    return sizes


def _last_accepted(size: int) -> pd.DataFrame | None:
    """Return the table of the last accepted version, or None if there is none.

    Raises:
        InputError: if it is damaged, or its images have another size.
    """
    if not ACCEPTED.is_file():
        return None
    start_anew = f"delete {ACCEPTED} to start anew with this version"
    try:
        table = pd.read_parquet(ACCEPTED, page_checksum_verification=True)
        version, accepted_size = table.attrs["version"], table.attrs["size"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"{ACCEPTED}: damaged: restore it, or {start_anew}") from None
    if accepted_size != size:
        raise InputError(
            f"data.size is {size}, the accepted version {version} has {accepted_size}: "
            f"they do not compare; {start_anew}"
        )
    return table


def _failure(record: dict[str, Any]) -> str:
    """Describe a failed expectation; names that come from files are quoted."""
    rows = ", ".join(repr(row) for row in record["rows"][:5]) or "the whole table"
    more = f" and {record['unexpected'] - 5} more" if record["unexpected"] > 5 else ""
    return f"{record['expectation']}({record['column']}) failed: {rows}{more}"


def _accept(verdict: dict[str, Any], reason: str, table: pd.DataFrame) -> str:
    """Store the table to compare the next version with; return the verdict in words."""
    with atomic_file(ACCEPTED) as draft:
        table.to_parquet(draft, compression="zstd", write_page_checksum=True)
    root = f", data.root: {verdict['root']}" if verdict["root"] else ""
    return (
        f"{_conclude(verdict, 'accepted', reason)}\nto train on it, in params.yaml: "
        f"data.source: {verdict['source']}{root}; then `dvc repro`"
    )


def _quarantine(
    verdict: dict[str, Any], reasons: list[str], rejects: list[dict[str, str]] | None = None
) -> str:
    """Move the ingested version to quarantine with the reasons; return the verdict in one line."""
    folder = paths.QUARANTINE / verdict["version"]
    shutil.rmtree(folder, ignore_errors=True)
    paths.QUARANTINE.mkdir(parents=True, exist_ok=True)
    if paths.INCOMING.is_dir():
        os.replace(paths.INCOMING, folder)
    if rejects is not None:
        write_json(folder / "rejects.json", rejects)
    verdict |= {"verdict": "quarantined", "reasons": reasons}
    for file in (folder / VERDICT, paths.DATASET_VERDICT):
        write_json(file, verdict)
    return f"version {verdict['version']} is in quarantine, {folder}: {'; '.join(reasons)}"


def _conclude(verdict: dict[str, Any], word: str, reason: str) -> str:
    write_json(paths.DATASET_VERDICT, verdict | {"verdict": word, "reasons": [reason]})
    return f"version {verdict['version']} {word}: {reason}"
