"""Read a recorded run through DVC's interfaces: git files, dvc.lock, cached outputs.

Nothing here writes. Hashes are computed from the bytes of files: DVC remembers hashes by the time
and size of a file, which proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.ignore import DvcIgnoreFilter
from dvc.repo import Repo
from dvc.scm import RevError, SCMError, resolve_rev
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_data.index import DataIndexDirError
from dvc_objects.fs.local import LocalFileSystem
from scmrepo.exceptions import SCMError as GitError

from gear import paths
from gear.core.errors import InputError
from gear.core.files import parse_json
from gear.core.text import one_line
from gear.core.yaml_text import parse_yaml
from gear.git_project import files_at

LOCK = "dvc.lock"
PIPELINE = "dvc.yaml"
WORKSPACE = "workspace"
HASH = "md5"
HEX = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Locked:
    """One stage of dvc.lock: command, params, and inputs and outputs with their md5.

    The md5 of a folder ends in `.dir`.
    """

    name: str
    cmd: Any
    params: dict[str, dict[str, Any]]  # file: {dotted key: value}
    deps: dict[str, str]
    outs: dict[str, str]


def installed_code(stages: Mapping[str, Locked]) -> dict[str, str]:
    """Return the hashes of installed code that stages of a project depend on, by their names.

    A checkout's stages depend on the files themselves and have none.
    """
    file = str(paths.LOCK)
    return {
        key: str(value)
        for stage in stages.values()
        for key, value in stage.params.get(file, {}).items()
    }


@dataclass(frozen=True)
class Revision:
    """A commit, or the files on disk, for which `commit` is empty.

    experiment: Whether `name` is the name of a DVC experiment.
    """

    name: str
    commit: str
    root: Path
    experiment: bool = False

    @cached_property
    def files(self) -> DVCFileSystem:
        """Files in git and cached outputs of this revision, by their paths in the project."""
        return files_at(self.root, self.commit) if self.commit else DVCFileSystem(str(self.root))

    def read(self, path: str) -> bytes | None:
        """Return the content of a file in git or in DVC's cache; None if it is in neither."""
        try:
            return bytes(self.files.read_bytes(path))
        except (OSError, DvcException, DataIndexDirError):
            return None

    def in_git(self, path: str) -> bool:
        """Return whether git, and not DVC's cache, holds a file or folder."""
        if PurePosixPath(path).is_absolute():  # `files` would take it for one from its root
            return False
        try:
            return bool(self.files.exists(path)) and not self.files.isdvc(path)
        except DataIndexDirError:  # inside an output that is not in the cache
            return False

    def holds(self, path: str) -> bool:
        """Return whether a file or folder is in git, or one whose hash DVC records."""
        if PurePosixPath(path).is_absolute():
            return False
        try:
            self.files.info(path)
        except DataIndexDirError:  # inside an output that is not in the cache
            return True
        except OSError:
            return False
        return True

    def read_yaml(self, path: str) -> dict[str, Any]:
        """Return a YAML file. Raises `InputError` if it is absent or no mapping."""
        content = self.read(path)
        if content is None:
            raise InputError(
                f"{self.name} has no {path}: nothing was run there; "
                "name a revision with a committed run"
            )
        return parse_yaml(content, f"{path} of {self.name}")

    def provenance(self) -> dict[str, Any]:
        """Return reports/provenance.json; {} if it is missing, damaged or of another run.

        It is of another run if DVC restored the report from its run cache, or `dvc checkout` did:
        no stage ran that could have written it. `page_md5` in it, the page's hash, tells.
        """
        facts = self.read_json(str(paths.PROVENANCE))
        report = self.lock().get("report")
        page = None if report is None else report.outs.get(str(paths.PAGE))
        of_this_run = isinstance(facts, dict) and facts.get("page_md5", page) == page
        return facts if of_this_run else {}

    def read_json(self, path: str) -> Any:
        """Return a JSON file, or None if it is absent. Raises `InputError` if it is broken."""
        content = self.read(path)
        return None if content is None else parse_json(content, f"{path} of {self.name}")

    def lock(self) -> dict[str, Locked]:
        """Return the stages of dvc.lock.

        Raises:
            InputError: if it is missing or damaged, or names a path outside of the checkout.
        """
        source = f"{LOCK} of {self.name}"
        stages = self.read_yaml(LOCK).get("stages")
        if not isinstance(stages, dict) or not stages:
            raise InputError(f"{source}: records no stage: restore it from git, or run `dvc repro`")
        return {name: _locked(name, stage, source) for name, stage in stages.items()}


def _locked(name: str, stage: Any, source: str) -> Locked:
    try:
        params = {str(file): dict(values) for file, values in (stage.get("params") or {}).items()}
        deps, outs = (_hashes(stage.get(kind) or []) for kind in ("deps", "outs"))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{source}: stage {name!r} is damaged: restore it from git, or run `dvc repro`"
        ) from None
    relative_deps = [path for path in deps if not PurePosixPath(path).is_absolute()]
    for path in (*outs, *params, *relative_deps):
        if not inside_checkout(path):
            raise InputError(
                f"{source}: stage {name!r} names {path!r}, which is not in the checkout: nothing "
                "of this revision is run or compared"
            )
    return Locked(name, stage.get("cmd"), params, deps, outs)


def inside_checkout(path: str) -> bool:
    """Return whether a path is relative, without `..`, and not in .git or .dvc.

    >>> [inside_checkout(path) for path in ("data/shards", "/etc/passwd", "a/../../b", "", ".")]
    [True, False, False, False, False]
    """
    parts = PurePosixPath(path).parts
    inner = not PurePosixPath(path).is_absolute() and ".." not in parts and "\0" not in path
    return bool(parts) and inner and parts[0] not in (".git", ".dvc")


def _hashes(entries: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {str(entry["path"]): str(entry.get(entry.get("hash", HASH), "")) for entry in entries}


def find_revision(name: str, root: Path) -> Revision:
    """Return a revision, given the name of an experiment, branch or tag, or a commit.

    `workspace` means the files on disk.

    Raises:
        InputError: if there is none, or experiments on several commits have the name.
    """
    if name == WORKSPACE:
        return Revision(name, "", root)
    with Repo(str(root)) as repo:
        experiments = repo.experiments.ls(all_commits=True).values()
        commits = {commit for named in experiments for other, commit in named if other == name}
        if len(commits) > 1:
            raise InputError(
                f"{name!r} names {len(commits)} experiments on different commits: "
                f"give a commit, one of {', '.join(sorted(commits))}"
            )
        try:
            commit = next(iter(commits), "")
            if not commit:
                found = resolve_rev(repo.scm, name) if name else ""
                commit = repo.scm.resolve_rev(f"{found}^{{commit}}")  # not a file or a tree
        except (RevError, SCMError, GitError, ValueError):
            raise InputError(
                f"no experiment or revision {one_line(repr(name), 80)}: `dvc exp list` and "
                "`git log` name them"
            ) from None
    return Revision(name, commit, root, experiment=bool(commits))


def checkout_root() -> Path:
    """Return the working directory, which must be a checkout with git, DVC and a commit.

    Raises:
        InputError: if it is not.
    """
    here = Path.cwd()
    if not (here / PIPELINE).is_file() or not (here / ".dvc").is_dir():
        raise InputError(f"{here}: no {PIPELINE} or no .dvc here: run in a checkout")
    try:
        find_revision("HEAD", here)
    except (InputError, DvcException):
        raise InputError(f"{here}: git has no commit here: commit the run first") from None
    return here


class MissingContentError(InputError):
    """Raised if a content is missing in DVC's cache."""


class Cache:
    """The DVC cache of a checkout: contents by hash."""

    def __init__(self, root: Path) -> None:
        with Repo(str(root)) as repo:
            self.folder = Path(repo.cache.local_cache_dir)
            self.store = repo.cache.local

    def files(self, md5: str) -> dict[str, str]:
        """Return the files of an output with their hashes; the path of a single file is ''.

        Raises:
            MissingContentError: if one of them is not in the cache.
        """
        self._require(md5)
        if not md5.endswith(".dir"):
            return {"": md5}
        try:
            tree = Tree.load(self.store, HashInfo(HASH, md5))
            listed = {"/".join(key): str(info.value) for key, _, info in tree}
        except Exception as error:  # DVC does not check what it reads here
            raise MissingContentError(
                f"the DVC cache has a damaged list {md5}: {one_line(str(error), 100)}"
            ) from None
        for name in listed:
            if not inside_checkout(name):
                raise InputError(
                    f"the list {md5} in the DVC cache names {name!r}, which is not in its folder: "
                    "delete it and get it anew (`dvc pull`)"
                )
        for inner in listed.values():
            self._require(inner)
        return listed

    def damaged_files(self, md5: str) -> list[str]:
        """Return the files of an output whose bytes no longer have their hash.

        Raises:
            MissingContentError: if one of them is not in the cache.
        """
        self._require(md5)
        if md5.endswith(".dir") and self._damaged(md5):
            return ["its list"]
        return [name for name, inner in self.files(md5).items() if self._damaged(inner)]

    def path(self, md5: str) -> Path:
        """Return the path of a content in the cache."""
        if not HEX.fullmatch(md5):
            raise InputError(f"{md5[:60]!r} is no hash of DVC: {LOCK} is damaged")
        return Path(self.store.oid_to_path(md5))

    def _require(self, md5: str) -> None:
        if not md5:
            raise MissingContentError("the DVC cache lacks a content without a hash")
        if not self.path(md5).is_file():
            raise MissingContentError(f"the DVC cache lacks {md5}")

    def _damaged(self, md5: str) -> bool:
        _, actual = hash_file(str(self.path(md5)), self.store.fs, HASH)
        return bool(actual.value != md5.removesuffix(".dir"))


def content_md5(root: Path, path: str) -> str:
    """Return DVC's hash of a file or folder of a checkout, from its bytes; '' if it is absent."""
    root = root.absolute()  # DVC does not hash a relative one
    if not (root / path).exists():
        return ""
    local = LocalFileSystem()
    _, _, content = build(
        HashFileDB(local, str(root)),
        str(root / path),
        local,
        HASH,
        dry_run=True,
        ignore=DvcIgnoreFilter(local, str(root)),
    )
    return str(content.hash_info.value)


def changed_inputs(stage: str, *, since_its_run: bool = False) -> str:
    """Return the first input of a stage that another made and that differs from dvc.lock.

    Checks the working directory. Returns "" if there is none, or no readable dvc.lock.

    Args:
        stage: The stage that reads the inputs.
        since_its_run: Compare with what the stage itself read when it last ran, not with what the
            others wrote last.
    """
    root = Path.cwd()
    try:
        lock = Revision(WORKSPACE, "", root).lock()
    except (InputError, DvcException, SCMError):
        return ""
    made = {path: md5 for other in lock.values() for path, md5 in other.outs.items()}
    read = lock[stage].deps if stage in lock else {}
    recorded = read if since_its_run else made
    return next(
        (path for path in read if path in made and content_md5(root, path) != recorded[path]), ""
    )
