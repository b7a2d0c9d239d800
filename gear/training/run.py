"""Open the resumable state of a training."""

from __future__ import annotations

import json
from pathlib import Path

import gear
from gear import paths
from gear.core.files import replace_file
from gear.params import Config
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.distributed import DistributedContext
from gear.training.fingerprint import fingerprint

CODE = (
    "data",
    "nn",
    "tokenizer",
    "generator",
    "losses",
    "training",
    "joint",
)  # a change is another run


def open_work(
    stage: str, config: Config, world: DistributedContext, sections: list[str], inputs: list[Path]
) -> CheckpointManager:
    """The resumable-state folder of this run, named by its params, inputs and code."""
    params = {name: config.model_dump(mode="json")[name] for name in sections}
    params |= {"world": world.size, "data": [config.data.flip, config.data.condition]}
    code = Path(gear.__file__).parent
    name = fingerprint(params, [*inputs, *(code / part for part in CODE)])
    work = CheckpointManager(paths.STATES / stage / name, world)
    if world.is_rank_zero:  # whoever reads its states can build the models without this params.yaml
        settings = {"root": str(Path.cwd()), "config": config.model_dump(mode="json")}
        replace_file(
            work.folder / "settings.json", (json.dumps(settings, indent=2) + "\n").encode()
        )
    return work
