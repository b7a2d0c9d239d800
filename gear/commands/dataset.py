"""`gear dataset`: a new version of the data beside the pipeline: ingest, gate, drift from the last accepted version, verdict.

Nothing of the pipeline is touched: the version is read into data/incoming. An accepted one stays as a small table in data/versions
(`dvc repro ingest` makes its shards again); a refused one waits, shards and all, in data/quarantine for somebody to look at it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
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
from gear.core.files import read_json, replace_file, write_json
from gear.data.shards import load_manifest
from gear.ingest.config import DataConfig
from gear.ingest.split import Refused, ingest_source
from gear.params import Config
from gear.validation import dataset_drift
from gear.validation.expectations import frame, validate

ACCEPTED = paths.VERSIONS / "accepted.json"
VERDICT = "verdict.json"


def check(config: Config, root: str) -> str:
    """Examine the source of params.yaml, or the same kind of source at `root`; returns what to print.

    The verdict is in reports/dataset.json. Raises `InputError` on a version that the gate refuses, `StageFailed` on one that drifted.
    """
    kind = (
        "folder" if config.data.source == "openmoji" else config.data.source
    )  # the packaged source lies nowhere else
    data = config.data.model_copy(update={"root": root, "source": kind}) if root else config.data
    with _alone():
        shutil.rmtree(paths.INCOMING, ignore_errors=True)
        verdict: dict[str, Any] = {
            "source": data.source,
            "root": data.root,
            "compared_with": _last_accepted(),
            "columns": [],
            "page": "",
        }
        try:
            ingest_source(data, paths.INCOMING, config.host.workers)
        except Refused as refused:
            name = (
                "refused-" + hashlib.sha256(f"{refused}{refused.rejects}".encode()).hexdigest()[:12]
            )
            raise InputError(
                _quarantine(verdict | {"version": name}, [str(refused)], refused.rejects)
            ) from None
        manifest = load_manifest(paths.INCOMING)
        rows = frame(paths.INCOMING, manifest["size"], config.run.seed)
        made = _manifest(rows, manifest)
        verdict |= {
            "version": _name(made),
            "rows": len(rows),
            "classes": manifest["classes"],
            "rejected": manifest["rejected"],
        }
        verdict["gate"] = validate(rows, manifest, config.data, paths.DRIFT_PAGES / "gate")
        if failed := [record for record in verdict["gate"] if not record["success"]]:
            raise InputError(_quarantine(verdict, [_failure(record) for record in failed]))
        if verdict["version"] == verdict["compared_with"]:
            return _conclude(
                verdict, "unchanged", "it is the last accepted version", paths.INCOMING
            )
        return _judge(config, data, rows, made, verdict)


def _judge(
    config: Config,
    data: DataConfig,
    rows: pd.DataFrame,
    made: dict[str, Any],
    verdict: dict[str, Any],
) -> str:
    name, before = verdict["version"], verdict["compared_with"]
    reference = _load(before, made["size"]) if before else None
    table = dataset_drift.table(paths.INCOMING, rows, made["classes"], _original_sizes(data, rows))
    _save(paths.INCOMING, name, made, table)
    if reference is None:
        return _accept(verdict, "nothing to compare with: the first version", paths.INCOMING)
    page = paths.DRIFT_PAGES / f"dataset-{name}.html"
    verdict |= {
        "columns": dataset_drift.compare(reference, table, config.run.seed, page),
        "page": str(page),
    }
    drifted = [c for c in verdict["columns"] if c["drifted"]]
    if drifted:
        reasons = [
            f"{c['column']} drifted by {c['distance']:.3g}, over {c['threshold']:.3g} ({c['change']})"
            for c in drifted
        ]
        raise StageFailed(
            _quarantine(verdict, reasons) + f"; if it is meant so: `gear dataset --accept {name}`"
        )
    return _accept(verdict, f"no column drifted from version {before}", paths.INCOMING)


def accept(name: str) -> str:
    """Accept a version that drifted, and was put into quarantine for it. Raises `InputError` on any other."""
    with _alone():
        folder = paths.QUARANTINE / name
        known = sorted(
            p.name for p in paths.QUARANTINE.glob("*") if (p / f"{p.name}.parquet").is_file()
        )
        if name not in known:
            there = (
                f"those that only drifted: {', '.join(known)}"
                if known
                else "none in quarantine only drifted"
            )
            raise InputError(
                f"--accept {name!r}: {there}; one that the gate refused has to be mended at its source"
            )
        verdict = read_json(folder / VERDICT)
        return _accept(verdict, f"by hand, though {'; '.join(verdict['reasons'])}", folder)


@contextmanager
def _alone() -> Iterator[None]:
    """One check at a time: data/incoming has one owner. The lock goes with its process."""
    path, draft = (
        paths.WORK / "dataset.lock",
        paths.INCOMING.with_name(paths.INCOMING.name + ".partial"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{paths.INCOMING}: another check of a data version works here: wait for it"
            ) from None
        try:
            yield
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # ingest leaves what it could not finish


def _manifest(rows: pd.DataFrame, manifest: dict[str, Any]) -> dict[str, Any]:
    """What a version is, wherever it came from: its rows by one hash, its classes and size."""
    content = rows[["split", "key", "label", "caption", "sha256"]].to_csv(
        index=False, lineterminator="\n"
    )
    kept = {key: manifest[key] for key in ("size", "classes", "train", "val")}
    return kept | {"rows_sha256": hashlib.sha256(content.encode()).hexdigest()}


def _name(made: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]


def _original_sizes(data: DataConfig, rows: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Width and height of the files behind the rows that are compared, by key; only image folders keep them."""
    if data.source != "folder":
        return {}
    sizes = {}
    for key in rows["key"].iloc[dataset_drift.drawn(rows["key"])]:
        with Image.open(Path(data.root) / key) as opened:
            sizes[key] = opened.size
    return sizes


def _save(folder: Path, name: str, made: dict[str, Any], table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    replace_file(folder / f"{name}.parquet", buffer.getvalue())
    write_json(
        folder / f"{name}.json",
        made | {"table_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()},
    )


def _accepted() -> list[str]:
    return read_json(ACCEPTED)["versions"] if ACCEPTED.is_file() else []


def _last_accepted() -> str:
    return (_accepted() or [""])[-1]


def _load(name: str, size: int) -> pd.DataFrame:
    """The table of an accepted version. Raises `InputError` where it is lost, damaged, or of images of another size."""
    file, start_anew = (
        paths.VERSIONS / f"{name}.parquet",
        f"delete {ACCEPTED} to start anew with this version",
    )
    kept = read_json(file.with_suffix(".json"))
    if kept["size"] != size:
        raise InputError(
            f"data.size is {size}, the accepted version {name} has {kept['size']}: they do not compare; {start_anew}"
        )
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != kept["table_sha256"]:
        raise InputError(f"{file}: lost or damaged: restore it, or {start_anew}")
    return pd.read_parquet(io.BytesIO(content))


def _failure(record: dict[str, Any]) -> str:
    """In words; names that come from files in quotes, so that the line stays one."""
    rows = ", ".join(repr(row) for row in record["rows"][:5]) or "the whole table"
    more = f" and {record['unexpected'] - 5} more" if record["unexpected"] > 5 else ""
    return f"{record['expectation']}({record['column']}) failed: {rows}{more}"


def _accept(verdict: dict[str, Any], why: str, folder: Path) -> str:
    """Copy the table to the accepted ones; the name in accepted.json, written last and at once, is what counts."""
    name = verdict["version"]
    for suffix in (".parquet", ".json"):
        replace_file(paths.VERSIONS / f"{name}{suffix}", (folder / f"{name}{suffix}").read_bytes())
    write_json(ACCEPTED, {"versions": [*(v for v in _accepted() if v != name), name]})
    train = f"data.source: {verdict['source']}" + (
        f", data.root: {verdict['root']}" if verdict["root"] else ""
    )
    return (
        _conclude(verdict, "accepted", why, folder)
        + f"\nto train on it, in params.yaml: {train}; then `dvc repro`"
    )


def _quarantine(
    verdict: dict[str, Any], reasons: list[str], rejects: list[dict[str, str]] | None = None
) -> str:
    """Put what was read aside, with the reasons; returns one line about it."""
    folder = paths.QUARANTINE / verdict["version"]
    paths.QUARANTINE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    if paths.INCOMING.is_dir():
        os.replace(paths.INCOMING, folder)
    if rejects is not None:
        write_json(folder / "rejects.json", rejects)
    verdict |= {"verdict": "quarantined", "reasons": reasons}
    write_json(folder / VERDICT, verdict)
    write_json(paths.DATASET_VERDICT, verdict)
    return f"version {verdict['version']} is in quarantine, {folder}: {'; '.join(reasons)}"


def _conclude(verdict: dict[str, Any], word: str, why: str, folder: Path) -> str:
    """Leave no shards behind: the source has them."""
    shutil.rmtree(folder)
    write_json(paths.DATASET_VERDICT, verdict | {"verdict": word, "reasons": [why]})
    return f"version {verdict['version']} {word}: {why}"
