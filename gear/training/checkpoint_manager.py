"""Save and restore the resumable state of one training."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gear.core.errors import InputError
from gear.core.files import exclusive_lock, replace_file
from gear.core.text import one_line
from gear.training.background_writer import BackgroundWriter
from gear.training.compiled import is_compiled
from gear.training.distributed import DistributedContext
from gear.training.engine import apply_settings
from gear.training.fingerprint import Identity
from gear.training.resharding import load_whole_state, read_whole_state
from gear.training.state_files import (
    FileFacts,
    damage,
    find_whole,
    flush,
    retire,
    write_manifest,
)
from gear.training.states import (
    DESCRIPTION,
    LOCK,
    OLDER,
    TAG,
    delete_finished,
    read_description,
    read_tag,
    step_of,
)


@dataclass
class _Pending:
    """A state that is being written.

    copy_seconds: time that training waited for the copy. healthy: whether to mark it as healthy.
    """

    tag: str
    copy_seconds: float
    healthy: bool = False


class CheckpointManager:
    """Manages the folder of one training's resumable states.

    `step-N/`: a state, with the size and sha256 of its files in `manifest.json`. `latest`: name of
    the newest one. `healthy`: name of the newest one that was marked as healthy.
    `stopped-step-N/`: the state when a stop was requested. `stop`: that request (`gear monitor`).
    `older/`: the state before the newest, of either name, in case the newest is damaged. No other
    state is kept.
    `settings.json`: the checkout and its settings. `description.json`: the identity and step of
    the latest state.

    A state is written under a temporary name, flushed to the disk, and only then renamed and
    pointed to, so that neither a kill nor a power cut leaves half of one. Between `begin_save` and
    `finish_save`, a thread writes a copy of it while training goes on.
    """

    def __init__(
        self,
        folder: Path,
        context: DistributedContext,
        identity: Identity | None = None,
        stage_lock: Path | None = None,
        of_experiment: bool = False,
    ) -> None:
        """Create or open a folder and lock it.

        Args:
            folder: The folder of the states.
            context: The ranks.
            identity: What the states are of.
            stage_lock: Another file to lock.
            of_experiment: The training runs in an experiment's temporary folder.

        Raises:
            InputError: if another process holds one of the locks.
        """
        self.folder, self.context, self.identity = folder, context, identity
        self.of_experiment = of_experiment
        self.started_from: dict[str, Any] | None = None  # description of the state of --from
        self.save_seconds: float | None = None  # duration of the last save
        self.measure_seconds: float | None = None  # duration of the slowest measurement
        self._writer = BackgroundWriter()
        self._pending: _Pending | None = None
        self.locks = ExitStack()
        if context.is_rank_zero:
            stage = identity.stage if identity else folder.parent.name
            wait = "wait for it or stop it"
            if stage_lock is not None:
                message = f"another process is training {stage} in this checkout ({{holder}})"
                self.locks.enter_context(exclusive_lock(stage_lock, f"{message}: {wait}"))
            message = f"{folder}: another process is training this very run ({{holder}}): {wait}"
            self.locks.enter_context(exclusive_lock(folder / LOCK, message))
            (folder / "stop").unlink(missing_ok=True)  # a request to the previous run
            self._clear_drafts()
            if identity is not None:
                self.note("settings.json", {"root": str(Path.cwd()), "config": identity.params})
        dist.barrier()

    def close(self) -> None:
        """Release the locks."""
        self.locks.close()

    def save(self, engines: dict[str, Any], state: dict[str, Any]) -> None:
        """Save all engines and `state`, which has a `step`; older states are deleted."""
        self.begin_save(engines, state)
        self.finish_save()

    def begin_save(self, engines: dict[str, Any], state: dict[str, Any]) -> None:
        """Copy all engines and `state`, which has a `step`, and start a thread that writes them."""
        self.finish_save()
        self._pending = self._copy(f"step-{state['step']}", engines, state)

    def writing(self) -> bool:
        """Return whether this rank is still writing a state."""
        return self._writer.busy()

    def finish_save(self) -> None:
        """Wait for a save in progress, if any, and make it the latest. Call it on all ranks.

        Raises:
            OSError: if a file could not be written; the previous state stays the latest.
        """
        saved, self._pending = self._pending, None
        if saved is None:
            return
        self._put_in_place(saved)
        if self.context.is_rank_zero:
            self._point("latest", saved.tag)
            self.describe(step_of(saved.tag))
            if saved.healthy:
                self._point("healthy", saved.tag)
            self._drop_old()
        dist.barrier()

    def save_stopped(self, engines: dict[str, Any], state: dict[str, Any]) -> Path:
        """Save the state of a run that was asked to stop; it becomes `latest` if there is none."""
        self.finish_save()
        tag = f"stopped-step-{state['step']}"
        self._put_in_place(self._copy(tag, engines, state))
        if self.context.is_rank_zero and self.read("latest") is None:
            self._point("latest", tag)
            self.describe(state["step"])
        dist.barrier()
        return self.folder / tag

    def mark_healthy(self) -> None:
        """Mark the latest state, or the one being saved, as healthy; kept until a newer one is."""
        if self._pending is not None:
            self._pending.healthy = True
            return
        tag = self.read("latest")
        if self.context.is_rank_zero and tag is not None and tag != self.read("healthy"):
            self._point("healthy", tag)
            self._drop_old()

    def roll_back(self) -> Path | None:
        """Make the last healthy state the latest. Returns the state that the next run loads.

        If that state is damaged, the latest stays, with a warning.
        """
        self.finish_save()
        healthy = self._healthy()
        if self.context.is_rank_zero and healthy is not None:
            if fault := damage(self.folder / healthy):
                print(f"{fault}: it was the last healthy state", file=sys.stderr)
            else:
                self._point("latest", healthy)
                self.describe(step_of(healthy))
        dist.barrier()
        latest = self.read("latest")
        return self.folder / latest if latest else None

    def latest_step(self) -> int | None:
        """Return the step of the latest state; None if there is none."""
        return step_of(read_tag(self.folder)) if self.read("latest") is not None else None

    def forget(self) -> None:
        """Discard the states on disk: they are not resumed, and the next save deletes them."""
        dist.barrier()  # all ranks have read `latest`
        if self.context.is_rank_zero:
            for name in (DESCRIPTION, "latest", "healthy"):
                (self.folder / name).unlink(missing_ok=True)
            for state in (*self._states(), *self.folder.glob(OLDER)):
                forgotten = self.folder / f"forgotten-{state.name}"
                retire(forgotten)  # of a run that was killed before its first save
                state.rename(forgotten)
        dist.barrier()

    def load(self, engines: dict[str, Any], source: Path | None = None) -> dict[str, Any] | None:
        """Restore the engines from the latest state and return that state; None if there is none.

        If files are missing or differ from its manifest, the previous state is used, with a
        warning. A state saved with another number of ranks or ZeRO stage is resharded; training
        then continues equal up to rounding.

        source: folder of another training whose latest state is loaded instead.

        Raises:
            InputError: if the state is damaged, holds anything but tensors and plain values, or
                does not fit the models.
        """
        saved = self._whole_state(source or self.folder)
        if saved is None:
            return None
        if source is None:
            saved = self._make_latest(saved)
        try:
            state: dict[str, Any] = torch.load(
                saved / "state.pt", weights_only=True, map_location="cpu"
            )
            int(state["step"])
        except Exception as error:  # damaged files raise errors of many kinds
            raise _damaged(saved / "state.pt", error) from None
        current = self._layout(engines)
        layout = current | state.get("layout", {})
        self._note_changes(layout, current)
        ranks, zero_stage = layout["ranks"], layout["zero_stage"]
        as_saved = (ranks, zero_stage) == (current["ranks"], current["zero_stage"])
        for name, engine in engines.items():
            if name == "discriminator" and not (saved / name).exists():
                continue  # it had not joined when this was saved: it is still untrained
            try:
                if as_saved:
                    engine.load_checkpoint(str(saved), tag=name, load_lr_scheduler_states=False)
                else:
                    module = engine.module
                    load_whole_state(
                        engine,
                        read_whole_state(saved / name, module, ranks=ranks, zero_stage=zero_stage),
                    )
            except Exception as error:
                raise _damaged(saved / name, error) from None
            apply_settings(engine)
        return state

    def stop_requested(self) -> bool:
        """Return whether a stop of this run is requested; only checks that the file exists."""
        return (self.folder / "stop").exists()

    def stop_reason(self) -> str:
        """Return the reason of a stop request, in one line."""
        return " ".join((self.read("stop") or "no reason given").split())

    def read(self, name: str) -> str | None:
        """Return the content of a file of the folder; None if there is none."""
        try:
            return (self.folder / name).read_text(errors="replace")
        except FileNotFoundError:
            return None

    def note(self, name: str, facts: dict[str, Any]) -> Path:
        """Write facts as JSON to a file of the folder. Returns its path."""
        replace_file(self.folder / name, (json.dumps(facts, indent=2) + "\n").encode())
        return self.folder / name

    def describe(self, step: int, *, finished: bool = False) -> None:
        """Write description.json: the identity and step of the latest state."""
        facts = self.identity.facts() if self.identity else {}
        facts |= {"step": step, "finished": finished, "started_from": self.started_from}
        facts |= {"of_experiment": self.of_experiment}
        before = read_description(self.folder)
        saved, measured = before.get("save_seconds"), before.get("measure_seconds")
        facts |= {"save_seconds": saved if self.save_seconds is None else self.save_seconds}
        known = [s for s in (measured, self.measure_seconds) if isinstance(s, float)]
        facts |= {"measure_seconds": max(known, default=None)}
        self.note(DESCRIPTION, facts)

    def finish(self) -> None:
        """Mark the training as finished; delete the states of other finished ones of its stage.

        An experiment in a temporary folder deletes only those of experiments.
        """
        self.finish_save()
        dist.barrier()
        step = self.latest_step()
        if self.context.is_rank_zero and step is not None:
            self.describe(step, finished=True)
            delete_finished(self.folder.parent, but=self.folder, of_experiment=self.of_experiment)
        self.close()

    def start(self) -> dict[str, Any] | None:
        """Return the state of another training that this one started from; None if there is none.

        It has the other's `stage` and `step`, and `differences`: how the other's settings, inputs,
        code and versions differ from this one's, a phrase each.
        """
        other = self.started_from
        if not other:
            return None
        differences = self.identity.differences(other) if self.identity else []
        return {"stage": other.get("stage"), "step": other.get("step"), "differences": differences}

    def _whole_state(self, folder: Path) -> Path | None:
        """Return the newest undamaged state of a folder, found by rank zero; None if there is none.

        Raises:
            InputError: if there are states, but all are damaged.
        """
        choice: list[Any] = [None]
        if self.context.is_rank_zero:
            try:
                choice = [find_whole(folder)]
            except InputError as error:
                choice = [error]
        if self.context.size > 1:
            dist.broadcast_object_list(choice, device=self.context.device)
        if isinstance(choice[0], InputError):
            raise choice[0]
        found: Path | None = choice[0]
        return found

    def _make_latest(self, saved: Path) -> Path:
        """Make a state of this folder the latest, if a newer one is damaged. Returns its folder."""
        whole = self.folder / saved.name
        if self.context.is_rank_zero:
            if saved != whole:  # in older/
                retire(whole)
                saved.rename(whole)
            if self.read("latest") != saved.name:
                self._point("latest", saved.name)
            healthy = self._healthy()
            if healthy is not None and step_of(healthy) > step_of(saved.name):
                # the training was healthy after this state, and the newer ones are damaged
                self._point("healthy", saved.name)
        dist.barrier()
        return whole

    def _note_changes(self, saved: dict[str, Any], current: dict[str, Any]) -> None:
        """Print which of ranks, ZeRO stage, threads, compile and device changed since the save."""
        for name, value in current.items():
            if self.context.is_rank_zero and saved[name] != value:
                print(
                    f"note: the state was trained with {name} = {saved[name]}, it goes on with "
                    f"{value}: equal but for rounding"
                )

    def _layout(self, engines: dict[str, Any]) -> dict[str, Any]:
        stages = [engine.zero_optimization_stage() for engine in engines.values()]
        return {
            "ranks": self.context.size,
            "zero_stage": stages[0] if stages else 0,
            "threads": torch.get_num_threads(),
            "compile": any(is_compiled(engine.module) for engine in engines.values()),
            "device": self.context.device.type,
        }

    def _copy(self, tag: str, engines: dict[str, Any], state: dict[str, Any]) -> _Pending:
        """Copy a state to memory and start writing it under a temporary name."""
        began = time.monotonic()
        draft = self.folder / f"{tag}.partial"
        if self.context.is_rank_zero:
            self._clear_drafts()
            draft.mkdir()
        dist.barrier()
        for name, engine in engines.items():
            engine.checkpoint_engine.save = self._writer.add
            engine.save_checkpoint(str(draft), tag=name, save_latest=False)
        if self.context.is_rank_zero:
            self._writer.add({**state, "layout": self._layout(engines)}, draft / "state.pt")
        return _Pending(tag, time.monotonic() - began)

    def _put_in_place(self, saved: _Pending) -> None:
        """Wait until all ranks have written a state, and rename it to its final name."""
        draft = self.folder / f"{saved.tag}.partial"
        try:
            writes = self._writer.wait()
        except Exception:
            if self.context.size == 1:  # of several, another may still be writing
                shutil.rmtree(draft, ignore_errors=True)  # makes room on a full disk
            raise
        began = time.monotonic()
        facts = self._of_all_ranks({path: write.facts for path, write in writes.items()})
        if self.context.is_rank_zero:
            write_manifest(draft, facts)
            retire(self.folder / saved.tag)  # from an earlier run of these steps
            draft.rename(self.folder / saved.tag)
            flush(self.folder)
        seconds = sum(write.seconds for write in writes.values()) + time.monotonic() - began
        self.save_seconds = round(saved.copy_seconds + seconds, 1)

    def _clear_drafts(self) -> None:
        """Delete what saves that were killed or failed have left."""
        for left in (*self.folder.glob("*step-*.partial"), *self.folder.glob("*.deleted")):
            shutil.rmtree(left, ignore_errors=True)

    def _of_all_ranks(self, facts: dict[Path, FileFacts]) -> dict[Path, FileFacts]:
        """Return the files that all ranks wrote; waits until all have written."""
        if self.context.size == 1:
            return facts
        parts: list[Any] = [None] * self.context.size
        dist.all_gather_object(parts, facts)
        return {path: fact for part in parts for path, fact in part.items()}

    def _point(self, name: str, tag: str) -> None:
        draft = self.folder / f"{name}.partial"
        draft.write_text(tag)
        flush(draft)
        os.replace(draft, self.folder / name)
        flush(self.folder)

    def _healthy(self) -> str | None:
        """Return the name of the last healthy state; None if there is none or it is damaged."""
        tag = (self.read("healthy") or "").strip()
        return tag if TAG.fullmatch(tag) else None

    def _states(self) -> list[Path]:
        """Return the folders of all states except the one in `older/`."""
        return [*self.folder.glob("step-*[0-9]"), *self.folder.glob("stopped-step-*[0-9]")]

    def _drop_old(self) -> None:
        """Delete superseded states; the newest one before the latest moves to `older/` instead."""
        kept = {self.read("latest"), self._healthy()}
        step = self.latest_step()
        superseded = [state for state in self._states() if state.name not in kept]
        before = [s for s in superseded if step is not None and step_of(s.name) < step]
        newest = max(before, key=lambda state: step_of(state.name), default=None)
        if newest is not None:
            retire(self.folder / OLDER)
            (self.folder / OLDER).mkdir()
            newest.rename(self.folder / OLDER / newest.name)
        for state in (*superseded, *self.folder.glob("forgotten-*")):
            retire(state)


def _damaged(file: Path, error: Exception) -> InputError:
    """Return the error for a state that cannot be loaded; PyTorch's advice is left out."""
    reason = str(error).split("\n")[0].split("Re-running")[0].split("In PyTorch 2.6")[0]
    what = one_line(f"{type(error).__name__}: {reason}", 160)
    return InputError(
        f"{file}: damaged, or of other models ({what}): nothing was changed; go on from another "
        f"state (`gear states`), or delete {file.parent.parent} to start anew"
    )
