"""Locate a project in its git repository, and read its files at a revision.

A project (dvc.yaml, params.yaml, .dvc) is the root of a git repository or a folder of a larger one.
Git and DVC's file systems name the files of a commit by their paths from git's root: only this
module knows the way from there to the project. Imports no torch.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem


def git_root(folder: Path) -> Path | None:
    """Return the root of the git working tree that a folder is in; None if it is in none."""
    command = ["git", "rev-parse", "--show-toplevel"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return Path(done.stdout.decode(errors="surrogateescape").removesuffix("\n"))


def project_prefix(project: Path) -> Path:
    """Return the path of a project from git's root; `Path()` if it is the root or in no git."""
    root = git_root(project)
    folder = project.resolve()
    return folder.relative_to(root) if root and folder.is_relative_to(root) else Path()


def files_at(project: Path, revision: str) -> DVCFileSystem:
    """Return the files of a project at a git revision, by their paths in the project.

    These are the files in git and the outputs in DVC's cache. `DVCFileSystem(project, rev=...)` has
    the paths from git's root instead, and no outputs of a project that is not that root.

    Raises:
        DvcException: if the revision has no such project, or there is no such revision.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import NotDvcRepoError
    from dvc.fs import GitFileSystem
    from dvc.repo import Repo
    from dvc.scm import SCM, map_scm_exception

    with map_scm_exception():
        scm = SCM(str(project))
        files = GitFileSystem(scm=scm, rev=revision)
        folder = files.join("/", *project_prefix(project).parts)
        repo = Repo(folder, fs=files, scm=scm, uninitialized=True)
    if repo.root_dir != folder:  # DVC goes on to look in the folders above
        raise NotDvcRepoError(f"{revision} has no project in {folder}")
    return DVCFileSystem(repo)


def tracked_files(project: Path, path: str) -> list[str]:
    """Return the files of a project's file or folder that git tracks, by their paths in it."""
    return _list_files(project, path)


def ignored_files(project: Path, path: str) -> list[str]:
    """Return the files of a project's file or folder that git ignores, by their paths in it."""
    return _list_files(project, path, "--others", "--ignored", "--exclude-standard")


def untracked_files(project: Path, path: str) -> list[str]:
    """Return the files of a project's file or folder that git neither tracks nor ignores."""
    return _list_files(project, path, "--others", "--exclude-standard")


def ignored_names(folder: Path, names: Iterable[str]) -> list[str]:
    """Return which of some names git would ignore in a folder; it and they need not exist."""
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    files = {str(folder / name): name for name in names}
    command = ["git", "check-ignore", "-z", "--no-index", "--stdin"]
    given = "\0".join(files).encode(errors="surrogateescape")
    done = subprocess.run(command, cwd=existing, input=given, capture_output=True, check=False)
    return [files[name] for name in _names(done.stdout)]


def _list_files(project: Path, path: str, *options: str) -> list[str]:
    command = ["git", "--literal-pathspecs", "ls-files", "-z", *options, "--", path]
    done = subprocess.run(command, cwd=project, capture_output=True, check=False)
    return _names(done.stdout)


def _names(output: bytes) -> list[str]:
    return output.decode(errors="surrogateescape").split("\0")[:-1]
