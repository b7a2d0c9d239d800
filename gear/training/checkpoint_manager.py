"""TODO."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gear.core.errors import InputError
from gear.training.distributed import DistributedContext


class CheckpointManager:
    """One run's resumable states.

    `step-N/`: a state; `latest`: the name of the newest that is whole; `healthy`: the newest whose window of codebook health was
    fine. No other state is kept. `stopped-step-N/`: where a run was when it was asked to stop. `stop`: that request, written by
    others (`gear monitor`). `settings.json`: where it runs and its whole configuration, for readers.
    """

    def __init__(self, folder: Path, world: DistributedContext) -> None:
        self.folder, self.world = folder, world
        if world.is_rank_zero:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"{folder}: another process is training this very run: wait for it or stop it"
                ) from None
            (folder / "stop").unlink(missing_ok=True)  # it was meant for the run before
        dist.barrier()

    def save(self, engines: dict[str, Any], state: dict[str, Any]) -> None:
        """Save all engines and `state` (with its `step`), then point `latest` at them; older ones go."""
        tag = f"step-{state['step']}"
        self._write(tag, engines, state)
        if self.world.is_rank_zero:
            self._point("latest", tag)
            self._drop_old()
        dist.barrier()

    def save_stopped(self, engines: dict[str, Any], state: dict[str, Any]) -> Path:
        """Save where a run stands that was asked to stop, beside `latest`; it is `latest` only where there is no other."""
        tag = f"stopped-step-{state['step']}"
        self._write(tag, engines, state)
        if self.world.is_rank_zero and self.read("latest") is None:
            self._point("latest", tag)
        dist.barrier()
        return self.folder / tag

    def mark_healthy(self) -> None:
        """The window of health that the newest state lies in was fine: keep that state until a newer one is confirmed."""
        tag = self.read("latest")
        if self.world.is_rank_zero and tag is not None and tag != self.read("healthy"):
            self._point("healthy", tag)
            self._drop_old()

    def roll_back(self) -> Path | None:
        """Point `latest` back at the last state whose health was fine; the state that a next run starts from, if any."""
        healthy = self.read("healthy")
        if self.world.is_rank_zero and healthy is not None:
            self._point("latest", healthy)
        dist.barrier()
        latest = self.read("latest")
        return self.folder / latest if latest else None

    def load(self, engines: dict[str, Any]) -> dict[str, Any] | None:
        """Restore the engines from `latest` and return its state; None where there is none."""
        latest = self.read("latest")
        if latest is None:
            return None
        source = self.folder / latest
        for name, engine in engines.items():
            path, _ = engine.load_checkpoint(str(source), tag=name, load_lr_scheduler_states=False)
            if path is None:
                raise RuntimeError(
                    f"{source}/{name}: the saved state does not load; delete {self.folder} to start over"
                )
        return torch.load(source / "state.pt", weights_only=True, map_location="cpu")

    def stop_requested(self) -> bool:
        """Whether somebody asks this run to stop: one look at a name, no file is read."""
        return (self.folder / "stop").exists()

    def stop_reason(self) -> str:
        """The reason of a stop request, one line."""
        return " ".join((self.read("stop") or "no reason given").split())

    def read(self, name: str) -> str | None:
        """A one-line file of the folder; None where there is none."""
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:
            return None

    def _write(self, tag: str, engines: dict[str, Any], state: dict[str, Any]) -> None:
        if self.world.is_rank_zero:  # what a killed save left; a new folder too, so that nobody's hard link to the old files changes
            shutil.rmtree(self.folder / tag, ignore_errors=True)
            (self.folder / tag).mkdir()
        dist.barrier()
        for name, engine in engines.items():
            engine.save_checkpoint(str(self.folder / tag), tag=name, save_latest=False)
        if self.world.is_rank_zero:
            torch.save(state, self.folder / tag / "state.pt")

    def _point(self, name: str, tag: str) -> None:
        draft = self.folder / f"{name}.partial"
        draft.write_text(tag)
        os.replace(draft, self.folder / name)

    def _drop_old(self) -> None:
        kept = {self.read("latest"), self.read("healthy")}
        for old in (*self.folder.glob("step-*"), *self.folder.glob("stopped-step-*")):
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def note(self, name: str, facts: dict[str, Any]) -> Path:
        """Keep facts for people beside the states, and say where."""
        (self.folder / name).write_text(json.dumps(facts, indent=2) + "\n")
        return self.folder / name

    def finish(self) -> None:
        """Delete the states of a run whose outputs are written."""
        dist.barrier()
        if self.world.is_rank_zero:
            shutil.rmtree(self.folder, ignore_errors=True)
