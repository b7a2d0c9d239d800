"""Files of a training state: flushed to the disk, listed with hashes, verified before loading."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gear.core.errors import InputError
from gear.core.files import parse_json, replace_file, sha256_of
from gear.training.states import read_tag, step_of, tagged

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileFacts:
    """Size and hash of a file, as a manifest lists them."""

    bytes: int
    sha256: str


def write_manifest(state: Path, flushed: Mapping[Path, FileFacts] | None = None) -> None:
    """Write the manifest of a state, with size and sha256 of its files, and flush all to the disk.

    flushed: files that are already on the disk; they are not read again.
    """
    files = sorted(file for file in state.rglob("*") if file.is_file())
    known = flushed or {}
    left = [file for file in files if file not in known]
    facts = {**known, **{f: FileFacts(f.stat().st_size, sha256_of(f)) for f in left}}
    manifest = {file.relative_to(state).as_posix(): asdict(facts[file]) for file in files}
    replace_file(state / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    for path in (*left, state / MANIFEST, *(p for p in state.rglob("*") if p.is_dir()), state):
        flush(path)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def retire(folder: Path) -> None:
    """Delete a folder if it exists; other processes see it complete or not at all."""
    if folder.exists():
        gone = folder.with_name(f"{folder.name}.deleted")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def damage(state: Path) -> str | None:
    """Return a message on the first damaged file of a state; None if there is none.

    A state without a manifest, of an earlier version, is not checked.
    """
    if not state.is_dir():
        return f"{state} is not there"
    try:
        content = (state / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{state / MANIFEST}: {error.strerror}"
    try:
        facts = parse_json(content, str(state / MANIFEST))
        expected = {name: (fact["bytes"], fact["sha256"]) for name, fact in facts.items()}
    except (InputError, AttributeError, KeyError, TypeError):
        return f"{state / MANIFEST} is damaged"
    for name, (size, sha256) in expected.items():
        file = state / name
        try:
            if not file.is_file():
                return f"{file} is not there"
            if file.stat().st_size != size:
                return f"{file} has {file.stat().st_size} bytes, not {size}"
            if sha256_of(file) != sha256:
                return f"{file} is not what was written (another sha256)"
        except OSError as error:  # such as a bad sector
            return f"{file}: {error.strerror}"
    return None


def find_whole(folder: Path) -> Path | None:
    """Return the newest undamaged state of a training's folder; None if the folder has no state.

    That is the one that `latest` names, else the newest other one, with a warning on stderr.

    Raises:
        InputError: if all are damaged.
    """
    others = _by_step(folder)
    try:
        named = folder / read_tag(folder) if (folder / "latest").exists() else None
        fault = damage(named) if named is not None else f"{folder / 'latest'} is not there"
        error = None
    except InputError as damaged:
        named, fault, error = None, str(damaged), damaged
    if named is None and error is None and not others:
        return None
    if fault is None:
        return named
    for state in others:
        if state != named and damage(state) is None:
            print(f"{fault}: going on from {state}, the newest that is whole", file=sys.stderr)
            return state
    raise error or InputError(
        f"{fault}: the state is damaged and there is no other: restore it, or delete {folder} "
        "to start anew"
    )


def _by_step(folder: Path) -> list[Path]:
    """Return the states of a training that have a manifest, newest first.

    States of runs that were asked to stop (`stopped-step-N`) are among them.
    """
    states = [path for path in tagged(folder) if (path / MANIFEST).is_file()]
    return sorted(states, key=lambda path: step_of(path.name), reverse=True)
