"""Resumable training state: atomic, outside DVC's outputs, named by what determines the run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gear.config import BadInput
from gear.training.engines import World

WHOLE, BLOCKS, BLOCK = 64 << 20, 17, 1 << 20  # bytes of a file that is hashed whole; blocks of a larger one


def fingerprint(params: dict[str, Any], files: list[Path]) -> str:
    """Hash of a stage's params and inputs (files, or folders of files): equal runs share a work folder."""
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    for path in files:
        inner = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts) if path.is_dir() else [path]
        for file in inner:
            digest.update(str(file).encode())
            digest.update(_content(file))
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    """sha256 of a file; of a large one, its size and evenly spaced blocks, since terabytes are not read to name a folder.

    A Parquet file's last block is its footer, with the smallest and largest sha256 of every row group's images.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        for number in range(BLOCKS):
            stream.seek((size - BLOCK) * number // (BLOCKS - 1))
            digest.update(stream.read(BLOCK))
        return digest.digest()


class WorkFolder:
    """One run's resumable states: `step-N/` folders and `latest`, the last that is whole."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        if world.lead:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput(f"{folder}: another process is training this very run: wait for it or stop it") from None
        dist.barrier()

    def save(self, engines: dict[str, Any], state: dict[str, Any]) -> None:
        """Save all engines and `state` (with its `step`), then point `latest` at them; older ones go."""
        tag = f"step-{state['step']}"
        for name, engine in engines.items():
            engine.save_checkpoint(str(self.folder / tag), tag=name, save_latest=False)
        if self.world.lead:
            torch.save(state, self.folder / tag / "state.pt")
            draft = self.folder / "latest.partial"
            draft.write_text(tag)
            os.replace(draft, self.folder / "latest")
            for old in self.folder.glob("step-*"):
                if old.name != tag:
                    shutil.rmtree(old, ignore_errors=True)
        dist.barrier()

    def load(self, engines: dict[str, Any]) -> dict[str, Any] | None:
        """Restore the engines from `latest` and return its state; None where there is none."""
        latest = self.folder / "latest"
        if not latest.exists():
            return None
        source = self.folder / latest.read_text()
        for name, engine in engines.items():
            path, _ = engine.load_checkpoint(str(source), tag=name, load_lr_scheduler_states=False)
            if path is None:
                raise RuntimeError(f"{source}/{name}: the saved state does not load; delete {self.folder} to start over")
        return torch.load(source / "state.pt", weights_only=True, map_location="cpu")

    def note(self, name: str, facts: dict[str, Any]) -> Path:
        """Keep facts for people beside the states, and say where."""
        (self.folder / name).write_text(json.dumps(facts, indent=2) + "\n")
        return self.folder / name

    def finish(self) -> None:
        """Delete the states of a run whose outputs are written."""
        dist.barrier()
        if self.world.lead:
            shutil.rmtree(self.folder, ignore_errors=True)
