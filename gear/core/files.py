"""Atomic files, replaced folders, JSON, exclusive locks and sha256 of files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gear.core.errors import InputError
from gear.core.text import one_line

OPEN_FILES = 1 << 16  # at most


class LockedError(InputError):
    """Another process holds a lock."""


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace a folder with a draft that `fill` has written.

    If `fill` raises, the old folder stays as it was, and the draft is deleted. The replacement is
    two renames; after a crash between them, the next call finds the old folder again. Of a link,
    the folder that it leads to is replaced, and the draft lies beside that (see `drafts_of`).
    """
    folder = folder.resolve()
    draft, old = drafts_of(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for left in (draft, old):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        fill(draft)
        if folder.exists():
            os.replace(folder, old)
        os.replace(draft, folder)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)


def drafts_of(folder: Path) -> tuple[Path, Path]:
    """Return where `replace_folder` puts the new folder and the old one: names nobody else uses."""
    new, old = f".{folder.name}.gear.partial", f".{folder.name}.gear-old.partial"
    return folder.with_name(new), folder.with_name(old)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a draft that replaces `path` if the body succeeds, and is deleted if not.

    Readers see the old file or the whole new one. Processes that write the same file at the same
    time do not disturb each other: the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(path) as draft:
        draft.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys and floats of six significant digits.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON does not have. The file stays as it
            was. A value that could not be computed is None, with the reason beside it.
    """
    for name, number in _numbers(value):
        if not math.isfinite(number):
            raise ValueError(f"{path}: {name or 'the value'} is {number}, which JSON does not have")
    text = json.dumps(
        _rounded(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    replace_file(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the content of a stage's JSON file.

    Raises:
        InputError: if the file is absent or not JSON.
    """
    remedy = "run the stage that makes it with `dvc repro`"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: {remedy}") from None
    try:
        return parse_json(content, str(path))
    except InputError as error:
        raise InputError(f"{error}: {remedy}") from None


def read_object(path: Path, **kinds: type) -> dict[str, Any]:
    """Return the object in a stage's JSON file.

    kinds: required names, and the types of their values.

    Raises:
        InputError: if the file is absent or damaged.
    """
    value = read_json(path)
    lacking = [
        name
        for name, kind in kinds.items()
        if not isinstance(value, dict) or not isinstance(value.get(name), kind)
    ]
    if not isinstance(value, dict) or lacking:
        what = f"no {lacking[0]!r} in it" if lacking else "not an object"
        raise InputError(f"{path}: damaged, {what}: run the stage that makes it with `dvc repro`")
    return value


def parse_json(content: bytes, source: str) -> Any:
    """Return the value of a JSON text; `source` names it in errors. Raises `InputError`."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise InputError(f"{source}: not JSON ({one_line(str(error), 120)})") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that holds one JSON object a line, such as a logged curve.

    Raises:
        InputError: if the file is absent or damaged.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    rows = [parse_json(line, f"{path} line {number}") for number, line in enumerate(lines, start=1)]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number}: not an object")
    return rows


@contextmanager
def exclusive_lock(path: Path, message: str) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, without waiting for it.

    The operating system releases the lock if the process dies. The file holds the process id.

    Args:
        path: Lock file; it and its folder are created if absent, and it stays afterwards.
        message: Text of the error; `{holder}` in it is replaced by "process <id>".

    Raises:
        LockedError: if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o666), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LockedError(message.replace("{holder}", holder)) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def allow_many_open_files() -> None:
    """Raise the limit of open files to the largest allowed; large sets have thousands of shards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def sha256_of(*paths: Path) -> str:
    """Return the sha256 (hex) of the concatenated contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def require_writable(file: Path, option: str) -> None:
    """Check early that a file can be written; `option` names it in errors.

    Raises:
        InputError: if it is a folder, or its nearest existing parent is not a writable folder.
    """
    above = file.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    reason = ""
    if file.is_dir():
        reason = "is a folder: name a file"
    elif not above.is_dir():
        reason = f"cannot be written: {above} is not a folder"
    elif not os.access(above, os.W_OK):
        reason = f"cannot be written: no permission in {above}"
    else:
        try:
            tempfile.TemporaryFile(dir=above).close()
        except OSError as error:  # such as /proc
            reason = f"cannot be written: {above}: {error.strerror}"
    if reason:
        raise InputError(f"{option} {file}: {reason}")


def require_file(path: str, sha256: str, setting: str, remedy: str) -> Path:
    """Return the path of a local weights file after checking its sha256.

    Args:
        path: The file; empty if the setting names none.
        sha256: The expected hash.
        setting: Name of the setting, for errors.
        remedy: What to do if the file is absent.

    Raises:
        InputError: if no file is named, or it is absent or has another sha256.
    """
    if not path:
        raise InputError(f"{setting}.path is empty: {remedy}")
    if not Path(path).is_file():
        raise InputError(f"{setting}.path: no file {path}: {remedy}")
    require_sha256(setting, sha256, Path(path))
    return Path(path)


def require_sha256(setting: str, expected: str, *paths: Path) -> None:
    """Check the sha256 of the concatenated contents of files.

    Raises:
        InputError: if it is not the expected one.
    """
    actual = sha256_of(*paths)
    if actual != expected:
        name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}/*{paths[0].suffix}"
        raise InputError(
            f"{setting}: {name} has sha256 {actual}, params.yaml says {expected or '(nothing)'}"
        )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the floats in a value with their places, such as "rows.3.loss"."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in inner:
            yield from _numbers(one, f"{name}.{key}".lstrip("."))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
