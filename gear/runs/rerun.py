"""A clone in a temporary folder in which recorded stages run again, apart from the checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gear.core.errors import InputError
from gear.process import run_child
from gear.runs.revision import Cache, Locked


class Scratch:
    """A clone of one commit with DVC settings of its own."""

    def __init__(self, folder: Path, cache: Cache) -> None:
        self.folder, self.cache = folder, cache

    def place(self, path: str, md5: str) -> None:
        """Put a recorded content in its place, as links into the cache (which holds its files read-only)."""
        target = self.folder / path
        self.remove(path)
        for name, inner in self.cache.files(md5).items():
            link = target / name if name else target
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.cache.object(inner).resolve())
        if md5.endswith(".dir"):
            target.mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        """Remove what lies at a path."""
        target = self.folder / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def run(self, stage: Locked, show: Callable[[str], None]) -> str:
        """Run one stage again whatever DVC remembers of it; returns '' or the reason why it failed."""
        for path in stage.outs:
            self.remove(path)
        flags = ["--single-item", "--force", "--no-run-cache", "--no-commit"]
        command = [sys.executable, "-m", "dvc", "repro", "--quiet", *flags, stage.name]
        ended = run_child(command, self.folder, self._environment(), show)
        return ended.reason if ended.code else ""

    def _environment(self) -> dict[str, str]:
        """The caller's, less what points at its checkout; `python` is the one that runs this."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if k != "PYTHONPATH" and not k.startswith(("DVC_", "GIT_"))
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {
            **kept,
            "PATH": path,
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site"),
        }


@contextmanager
def scratch(root: Path, commit: str, cache: Cache) -> Iterator[Scratch]:
    """A scratch clone of `commit` in the folder for temporary files (TMPDIR), gone afterwards, also after Ctrl-C and SIGTERM."""
    above = Path(tempfile.mkdtemp(prefix="gear-verify-"))
    before = signal.signal(signal.SIGTERM, _as_exit)
    try:
        folder = above / "checkout"
        _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(folder))
        _git(folder, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit)
        if not (folder / ".dvc").is_dir():
            raise InputError(f"{commit[:12]} has no .dvc folder in git: commit .dvc/config")
        yield Scratch(folder, cache)
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(above, ignore_errors=True)


def _git(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(
            f"git {arguments[0]} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )


def _as_exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
