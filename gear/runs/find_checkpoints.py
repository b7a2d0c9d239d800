"""Find checkpoints to measure: resumable states, and finished models in data/models."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gear import paths
from gear.core.errors import InputError
from gear.git_project import project_prefix
from gear.training.states import read_description, read_tag, state_folders, step_of

TEMPORARY = (".dvc/tmp/exps/*", ".dvc/tmp/exps/*/*")  # folders of temporary and queued experiments
UNKNOWN = "finished"  # run of finished models whose state is gone, as in a fresh clone


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a training that can be measured.

    run: name of the state's folder. root: where it trains: the checkout, or an experiment's
    temporary folder. folder: a state, or a finished stage's models. step: None if finished.
    saved: modification time in ns, since a run that resumes may save the same step again.
    """

    stage: str
    run: str
    root: Path
    folder: Path
    step: int | None
    saved: int

    @property
    def label(self) -> str:
        """The checkpoint's stage, run and step as text."""
        return f"{self.stage} {self.run} {'finished' if self.step is None else f'step {self.step}'}"


def newest(checkout: Path) -> list[Checkpoint]:
    """Return the newest checkpoint of a checkout and of each of its temporary experiments.

    The newest comes first. A state that vanishes meanwhile is skipped: its run has saved
    another one, or has finished.
    """
    roots = [checkout]
    prefix = project_prefix(checkout)
    for pattern in TEMPORARY:  # each has the files of the whole git repository
        projects = [folder / prefix for folder in sorted(checkout.glob(pattern))]
        roots += [project for project in projects if (project / paths.WORK).is_dir()]
    found: list[Checkpoint] = []
    for root in roots:
        here = [state for stage in paths.TRAININGS for state in _states(root, stage)]
        if root == checkout:  # experiments evaluate their own finished models
            here += _finished_models(root)
        found += sorted(here, key=_saved)[-1:]
    return sorted(found, key=_saved, reverse=True)


def _saved(checkpoint: Checkpoint) -> int:
    return checkpoint.saved


def _states(root: Path, stage: str) -> list[Checkpoint]:
    states = []
    for run in state_folders(root / paths.WORK / stage):
        try:
            tag = read_tag(run)
            saved = (run / tag / "state.pt").stat().st_mtime_ns
        except (OSError, InputError):  # deleted meanwhile, or damaged
            continue
        where = _training_root(run, root)
        if where is None:
            continue
        states.append(Checkpoint(stage, run.name, where, run / tag, step_of(tag), saved))
    return states


def _training_root(run: Path, root: Path) -> Path | None:
    """Return where a run trains: a flow's experiments keep their states in the checkout.

    None if that was the folder of an experiment and is deleted: the checkout's models and data are
    of other settings. A checkout that was moved is `root`.
    """
    try:
        place = Path(json.loads((run / "settings.json").read_text())["root"])
    except (OSError, ValueError, KeyError):  # the error is raised when the settings are read
        return root
    if place.is_dir():
        return root if place == root.resolve() else place
    return None if read_description(run).get("of_experiment") else root


def _finished_models(root: Path) -> list[Checkpoint]:
    """Return the finished models of joint and generator.

    A generator stage without steps copies the models of joint: they are returned once. Finished
    states of experiments, which may lie beside the checkout's, are not of these models.
    """
    models = []
    for stage in ("joint", "generator"):
        folder = root / paths.TRAININGS[stage]
        descriptions = {
            run.name: read_description(run) for run in state_folders(root / paths.WORK / stage)
        }
        finished = [
            run
            for run, description in descriptions.items()
            if description.get("finished") and not description.get("of_experiment")
        ]
        with suppress(OSError):
            saved = (folder / "generator/model.safetensors").stat().st_mtime_ns
            run_name = next(iter(finished), UNKNOWN)
            models.append(Checkpoint(stage, run_name, root, folder, None, saved))
    return [model for model in models if model.run != UNKNOWN] or models


def snapshot(checkpoint: Checkpoint, draft: Path) -> bool:
    """Fill `draft` with hard links to a state and its settings: training may delete them meanwhile.

    Returns:
        Whether the state was still there.
    """
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _link(checkpoint.folder / "state.pt", draft / "state.pt")
    except FileNotFoundError:
        return False
    with suppress(FileNotFoundError):  # the error is raised when the settings are read
        _link(checkpoint.folder.parent / "settings.json", draft / "settings.json")
    return True


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
