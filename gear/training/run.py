"""Context that all trainings share: settings, ranks, resumable state and output folder."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gear import paths
from gear.core.errors import InputError
from gear.core.files import replace_folder, write_json
from gear.core.host_config import HostConfig, RunConfig
from gear.core.model_folder import save_model
from gear.core.text import one_line
from gear.tokenizer.config import TokenizerShape
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.compiled import compile_parts
from gear.training.config import HealthConfig, TrainConfig
from gear.training.distributed import DistributedContext, join_process_group
from gear.training.ema import EMA
from gear.training.engine import accumulation, build_engine
from gear.training.fingerprint import Identity
from gear.training.states import (
    FROM,
    describe_nearest,
    read_description,
    saved_step,
    was_started_from,
)
from gear.training.trackers import TrackedRun

LONGEST_NAME = 100  # characters of the other state's name in the name of a folder


@dataclass(frozen=True)
class TrainingSettings:
    """Settings that every training has."""

    run: RunConfig
    train: TrainConfig
    host: HostConfig
    health: HealthConfig
    steps: int
    batch: int  # images a step over all ranks


@dataclass(frozen=True)
class SavedModel:
    """Weights of a model, and the config that builds it again."""

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]


@dataclass(frozen=True)
class TrainingRun:
    """A training in progress."""

    stage: str
    settings: TrainingSettings
    context: DistributedContext
    checkpoints: CheckpointManager
    log: Path
    tracked: TrackedRun
    start_from: Path | None = None  # another training's state to start from; None to resume

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        return self.context.device

    @property
    def accumulation(self) -> int:
        """Gradient accumulation steps: number of parts of a rank's share of a batch."""
        settings = self.settings
        return accumulation(settings.batch, self.context.size, settings.host.micro_batch)

    def engine(self, module: nn.Module, lr: float) -> Any:
        """Return a DeepSpeed engine of a module, whose blocks are compiled if host.compile."""
        if self.settings.host.compile:
            compile_parts(module)
        return build_engine(
            module,
            self.settings.train,
            self.context,
            lr=lr,
            batch=self.settings.batch,
            accumulation=self.accumulation,
            zero_stage=self.settings.host.zero_stage,
            offload=self.settings.host.offload_optimizer,
        )

    def ema(self, module: nn.Module) -> EMA:
        """Return the moving average of a module's weights."""
        return EMA(module, self.settings.train.ema)

    def finish(
        self,
        folder: Path,
        models: dict[str, SavedModel],
        rows: list[dict[str, float]],
        protocol: dict[str, Any] | None = None,
    ) -> None:
        """Write the output folder and keep the state for more steps.

        Args:
            folder: The stage's output.
            models: Models by name.
            rows: The logged curve.
            protocol: How the metrics in the curve were measured.
        """

        def fill(draft: Path) -> None:
            for name, model in models.items():
                save_model(draft / name, model.weights, model.config)
            (draft / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            if protocol:
                write_json(draft / "curves-protocol.json", protocol)
            if (start := self.checkpoints.start()) is not None:
                write_json(draft / paths.STARTED_FROM, start)

        if self.context.is_rank_zero:
            replace_folder(folder, fill)
        self.checkpoints.finish()


def saved_tokenizer(
    weights: dict[str, torch.Tensor], shape: TokenizerShape, temperature: float | None = None
) -> SavedModel:
    """Return a tokenizer to save; `temperature` is that of its soft assignment, if known."""
    own = TokenizerShape.pick(shape.model_dump(mode="json")).model_dump(mode="json")
    return SavedModel(weights, {"tokenizer": own, "temperature": temperature})


def _resumes(folder: Path, step: int | None, start_from: Path, steps: int) -> bool:
    """Return whether a training resumes the state in its folder in spite of `start_from`.

    It does if `start_from` is that folder, or if the state was started from `start_from` before.

    Args:
        folder: The folder of the training's states.
        step: Step of the newest one; None if there is none.
        start_from: Folder of the state to start from.
        steps: Steps of the training. A state past them is not resumed.
    """
    if start_from.resolve() == folder.resolve():
        return True
    return step is not None and step <= steps and was_started_from(folder, start_from)


def _folder_from(plain: Path, start_from: Path) -> Path:
    """Return the folder of the states of a training that starts from another training's state.

    It is not `plain`, the folder of the same training from its own start: without `start_from`,
    that one must not resume weights of another. If `start_from` is the folder of such a training
    itself, or `plain`, it is returned.
    """
    source = start_from.resolve()
    own = source.name == plain.name or source.name.startswith(f"{plain.name}{FROM}")
    if source.parent == plain.parent.resolve() and own:
        return plain.with_name(source.name)
    return plain.with_name(f"{plain.name}{FROM}{source.name[:LONGEST_NAME]}")


def open_training(
    identity: Identity,
    settings: TrainingSettings,
    *,
    states: Path,
    work: Path,
    live: Path = paths.LIVE,
    preset: str = "",
    start_from: Path | None = None,
) -> TrainingRun:
    """Join the ranks, lock the stage and open the training's resumable state.

    Args:
        identity: Identity of the training, which names its state.
        settings: Its settings.
        states: Folder of all resumable states.
        work: Work folder of this checkout, for the stage's lock, log and trackers.
        live: Folder of DVCLive's files, which holds one for each stage.
        preset: Preset nearest to the settings, for trackers.
        start_from: State of another training to start from: a folder that `gear states` lists.
            The training's states are then kept apart from those of a training without it. If it
            was started from that state before, it resumes its own state.

    Raises:
        InputError: if `start_from` holds no state or one of another stage, or another process
            trains this stage in this checkout or this state in any.
    """
    if start_from is not None and not (start_from / "latest").is_file():
        raise InputError(f"{start_from}: no state of a training: `gear states` lists them")
    if start_from is not None:
        other = read_description(start_from).get("stage", identity.stage)
        if other != identity.stage:
            raise InputError(
                f"{start_from}: a state of {one_line(str(other), 40)}, and this trains "
                f"{identity.stage}: `gear states` lists each state with its stage"
            )
    folder = states / identity.stage / identity.fingerprint
    if start_from is not None:
        folder = _folder_from(folder, start_from)
    step = saved_step(folder)
    is_shorter = start_from is None and step is not None and step > settings.steps
    if is_shorter:  # keep the state of the longer training
        folder = folder.with_name(f"{folder.name}-{settings.steps}")
    if start_from is not None and _resumes(folder, step, start_from, settings.steps):
        start_from = None
    context = join_process_group(settings.host, settings.run.seed)
    checkpoints = CheckpointManager(
        folder,
        context,
        identity=identity,
        stage_lock=work / identity.stage / "lock",
        of_experiment=states.resolve() != work.resolve(),
    )
    if context.is_rank_zero and is_shorter:
        print(
            f"{identity.stage}: its state is at step {step}, past the {settings.steps} asked for; "
            f"that state is kept, this training has its own in {folder}",
            file=sys.stderr,
        )
    elif context.is_rank_zero and checkpoints.read("latest") is None and start_from is None:
        nearest = describe_nearest(states, identity)
        if nearest:
            print(nearest, flush=True)
    log = work / "logs" / f"{identity.stage}.jsonl"
    recipe = identity.params.get("joint", {}).get("recipe", "")
    tags = {"stage": identity.stage, "recipe": recipe, "preset": preset}
    tracked = TrackedRun(
        identity.stage,
        name=" ".join(filter(None, (identity.stage, recipe, preset))),
        run=identity.fingerprint,
        params=identity.params,
        tags=tags | {"run": identity.fingerprint} | identity.inputs,
        live=live / identity.stage,
        state=folder,
        home=paths.home() / work,
    )
    return TrainingRun(identity.stage, settings, context, checkpoints, log, tracked, start_from)
