"""Where trainings keep what can be measured: resumable states in their work folders, finished models in data/models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gear import paths
from gear.training.states import read_description

TRAINED = {"tokenizer": paths.TOKENIZER, "joint": paths.JOINT, "generator": paths.GENERATOR}

TEMPORARY = (
    ".dvc/tmp/exps/*",
    ".dvc/tmp/exps/*/*",
)  # where `dvc exp run --temp` and queued experiments work


@dataclass(frozen=True)
class Checkpoint:
    """One measurable state of a run."""

    stage: str
    run: str  # the work folder's name; the weights' digest of finished models
    root: Path  # where it trains: the checkout, or an experiment's temporary folder
    folder: Path  # a state, or a finished stage's models
    step: int | None  # None: finished
    saved: int  # modification time, ns: a run that goes on from an older state makes new ones of the same step

    @property
    def label(self) -> str:
        return f"{self.stage} {self.run} {'finished' if self.step is None else f'step {self.step}'}"


def newest(checkout: Path) -> list[Checkpoint]:
    """What was saved last in a checkout and in each of its temporary experiments, the newest first.

    A state that vanishes while it is looked at is passed over: its run has saved another, or has finished.
    """
    roots = [
        checkout,
        *(
            folder
            for pattern in TEMPORARY
            for folder in sorted(checkout.glob(pattern))
            if (folder / paths.WORK).is_dir()
        ),
    ]
    found = []
    for root in roots:
        here = [state for stage in TRAINED for state in _states(root, stage)]
        if root == checkout:  # an experiment's own evaluation measures what it ended with
            here += [
                models for stage in ("joint", "generator") if (models := _finished(root, stage))
            ]
        found += sorted(here, key=_saved)[-1:]
    return sorted(found, key=_saved, reverse=True)


def _saved(checkpoint: Checkpoint) -> int:
    return checkpoint.saved


def _states(root: Path, stage: str) -> list[Checkpoint]:
    found = []
    for latest in sorted((root / paths.WORK / stage).glob("*/latest")):
        if read_description(latest.parent).get("finished"):  # its models are what it ended with
            continue
        try:
            tag = latest.read_text()
            folder = latest.parent / tag
            saved = (folder / "state.pt").stat().st_mtime_ns
        except OSError:
            continue
        found.append(
            Checkpoint(
                stage,
                latest.parent.name,
                _place(latest.parent, root),
                folder,
                int(tag.rsplit("-", 1)[1]),
                saved,
            )
        )
    return found


def _place(work: Path, root: Path) -> Path:
    """Where the run of a work folder trains: not beside its states where a flow runs it as an experiment."""
    try:
        place = Path(json.loads((work / "settings.json").read_text())["root"])
    except (OSError, ValueError, KeyError):  # said when it is read
        return root
    return root if place == root.resolve() or not place.is_dir() else place


def _finished(root: Path, stage: str) -> Checkpoint | None:
    """The finished models of a stage. Stage 2 of no steps copies those of stage 1 and counts as stage 1."""
    folder = root / TRAINED[stage]
    try:
        saved = (folder / "generator" / "model.safetensors").stat().st_mtime_ns
        run = _digest(folder)
        if (
            stage == "generator"
            and (root / paths.JOINT / "generator").is_dir()
            and run == _digest(root / paths.JOINT)
        ):
            stage, folder = "joint", root / paths.JOINT
    except OSError:
        return None
    return Checkpoint(stage, run, root, folder, None, saved)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for part in ("tokenizer", "generator"):
        with (folder / part / "model.safetensors").open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def snapshot(checkpoint: Checkpoint, draft: Path) -> bool:
    """Fill `draft` with the state's averaged weights and settings, by hard links: training may delete the state meanwhile.

    Returns False where the state is gone, or going.
    """
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _link(checkpoint.folder / "state.pt", draft / "state.pt")
    except FileNotFoundError:
        return False
    with suppress(FileNotFoundError):  # states of older versions have none: said when it is read
        _link(checkpoint.folder.parent / "settings.json", draft / "settings.json")
    return True


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
