"""What a run records, read and never changed: files in git, hashes in dvc.lock, contents in DVC's cache.

Hashes are computed here and not asked of DVC, which remembers them by time and size of a file: a proof must read the bytes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gear.core.errors import InputError

LOCK = "dvc.lock"

PIPELINE = "dvc.yaml"

WORKSPACE = "workspace"


@dataclass(frozen=True)
class Locked:
    """One stage of dvc.lock: what it read and made, each path with its md5 (of a folder `<md5>.dir`)."""

    name: str
    cmd: Any
    params: dict[str, dict[str, Any]]  # file: {dotted key: value}
    deps: dict[str, str]
    outs: dict[str, str]


@dataclass(frozen=True)
class Revision:
    """A commit or the files on disk. `commit` is empty for the workspace."""

    name: str
    commit: str
    root: Path

    def read(self, path: str) -> bytes | None:
        """A file as this revision holds it in git (in the workspace: on disk); None where it is not there."""
        if not self.commit:
            file = self.root / path
            return file.read_bytes() if file.is_file() else None
        shown = subprocess.run(
            ["git", "show", f"{self.commit}:{path}"],
            cwd=self.root,
            capture_output=True,
            check=False,
        )
        return shown.stdout if shown.returncode == 0 else None

    def exists(self, path: str) -> bool:
        """Whether a file or folder is in git at this revision (in the workspace: on disk)."""
        if not self.commit:
            return (self.root / path).exists()
        shown = subprocess.run(
            ["git", "cat-file", "-e", f"{self.commit}:{path}"],
            cwd=self.root,
            capture_output=True,
            check=False,
        )
        return shown.returncode == 0

    def read_yaml(self, path: str) -> dict[str, Any]:
        """A YAML file of this revision. Raises `InputError` where it is absent or no mapping."""
        content = self.read(path)
        if content is None:
            raise InputError(
                f"{self.name} has no {path}: nothing was run there; name a revision with a committed run"
            )
        try:
            value = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise InputError(
                f"{path} of {self.name} is not YAML: {str(error).splitlines()[0]}"
            ) from None
        if not isinstance(value, dict):
            raise InputError(f"{path} of {self.name} holds no mapping")
        return value

    def read_json(self, path: str) -> Any:
        """A JSON file of this revision, or None. Raises `InputError` where it is broken."""
        content = self.read(path)
        try:
            return None if content is None else json.loads(content)
        except ValueError as error:
            raise InputError(f"{path} of {self.name}: {error}") from None

    def lock(self) -> dict[str, Locked]:
        """The stages of dvc.lock."""
        stages = self.read_yaml(LOCK).get("stages") or {}
        return {
            name: Locked(
                name,
                s.get("cmd"),
                s.get("params") or {},
                _hashes(s.get("deps")),
                _hashes(s.get("outs")),
            )
            for name, s in stages.items()
        }


def _hashes(entries: list[dict[str, Any]] | None) -> dict[str, str]:
    return {entry["path"]: str(entry.get(entry.get("hash", "md5"), "")) for entry in entries or []}


def find_revision(name: str, root: Path) -> Revision:
    """A revision by the name of an experiment or of anything git knows; `workspace` is the files on disk.

    Raises `InputError` where there is none, or where experiments of several commits bear the name.
    """
    if name == WORKSPACE:
        return Revision(name, "", root)
    refs = _git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    found = {
        commit
        for ref, commit in (line.split() for line in refs)
        if ref.split("/")[-1] == name and len(ref.split("/")) > 4
    }
    if len(found) > 1:
        raise InputError(
            f"{name!r} names {len(found)} experiments on different commits: give a commit, one of {', '.join(sorted(found))}"
        )
    commit = next(iter(found), "") or _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
    )
    if not commit:
        raise InputError(
            f"no experiment or revision {name!r}: `dvc exp list` and `git log` name them"
        )
    return Revision(name, commit, root)


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()


def checkout_root() -> Path:
    """The working directory, which has to be a checkout with a pipeline under git and DVC. Raises `InputError`."""
    here = Path.cwd()
    if not (here / PIPELINE).is_file() or not (here / ".dvc").is_dir():
        raise InputError(f"{here}: no {PIPELINE} or no .dvc here: run in a checkout")
    if not _git(here, "rev-parse", "--verify", "--quiet", "HEAD"):
        raise InputError(f"{here}: git has no commit here: commit the run first")
    return here


class Missing(InputError):
    """DVC's cache lacks a content."""


class Cache:
    """DVC's cache of a checkout, read by hash."""

    def __init__(self, root: Path) -> None:
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            self.folder = Path(repo.cache.local.path)

    def object(self, md5: str) -> Path:
        """Where a content lies. Raises `Missing`."""
        path = self.folder / md5[:2] / md5[2:]
        if not md5 or not path.is_file():
            raise Missing(f"the DVC cache lacks {md5 or 'a content without a hash'}")
        return path

    def files(self, md5: str) -> dict[str, str]:
        """Each file of an output with its hash, by its path in the folder; a single file has the path ''. Raises `Missing`."""
        if not md5.endswith(".dir"):
            self.object(md5)
            return {"": md5}
        listed = {
            entry["relpath"]: entry["md5"] for entry in json.loads(self.object(md5).read_bytes())
        }
        for inner in listed.values():
            self.object(inner)
        return listed

    def read(self, md5: str, inner: str = "") -> bytes:
        """A file of an output. Raises `Missing`, also where the output has no such file."""
        if not md5.endswith(".dir"):
            return self.object(md5).read_bytes()
        for entry in json.loads(self.object(md5).read_bytes()):
            if entry["relpath"] == inner:
                return self.object(entry["md5"]).read_bytes()
        raise Missing(f"the output {md5} has no file {inner}")

    def corrupted_files(self, md5: str) -> list[str]:
        """Files of an output whose bytes do not have their hash any more, '' for the list of a folder itself. Raises `Missing`."""
        files = self.files(md5)
        bad = [name for name, inner in files.items() if _file_md5(self.object(inner)) != inner]
        return bad + (
            [""]
            if md5.endswith(".dir") and _file_md5(self.object(md5)) != md5.removesuffix(".dir")
            else []
        )


def content_md5(path: Path) -> str:
    """DVC's hash of a file or a folder on disk, from its bytes; '' where there is nothing.

    A folder's is the md5 of the JSON list of its files' hashes and paths, with the suffix `.dir`.
    """
    if path.is_file():
        return _file_md5(path)
    return (
        listing_md5({name: _file_md5(path / name) for name in folder_files(path)})
        if path.is_dir()
        else ""
    )


def folder_files(path: Path) -> list[str]:
    """Paths of the files in a folder, without those that .dvcignore names in every checkout."""
    return [
        p.relative_to(path).as_posix()
        for p in path.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ]


def listing_md5(files: dict[str, str]) -> str:
    """The hash of a folder by the hashes of its files."""
    entries = [{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]
    return (
        hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        + ".dir"
    )


def _file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
