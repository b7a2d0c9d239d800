"""Settings of the `run` and `host` sections."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator

from gear import DISTRIBUTION
from gear.core.errors import InputError
from gear.core.settings import Count, Positive, Section


class RunConfig(Section):
    """What all stages share."""

    seed: Count = Field(0, description="Seed of every random draw in the run.")


class HostConfig(Section):
    """How this machine does the work; no stage depends on it.

    Threads, ranks, device, ZeRO stage and compilation change results by rounding only.
    """

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device to compute on; auto takes a GPU if there is one."
    )
    threads: Annotated[int, Field(ge=0, le=4096)] = Field(
        0, description="CPU threads of PyTorch; 0 leaves the choice to PyTorch."
    )
    ranks: Annotated[int, Field(ge=0, le=1024)] = Field(
        0,
        description="Processes that share a stage's work on this node; 0 takes one per GPU, or "
        "one without GPUs.",
    )
    rank_timeout: Annotated[int, Field(ge=1, le=10**6)] = Field(
        600, description="Seconds that a rank waits for the others before the job ends."
    )
    workers: Annotated[int, Field(ge=1, le=1024)] = Field(
        2, description="Decoding processes of ingest."
    )
    cluster: str = Field(
        "",
        description="Address of a Dask scheduler, such as tcp://host:8786, whose workers decode "
        "for ingest; empty for `workers` processes of this machine.",
    )
    micro_batch: Annotated[int, Field(ge=0, le=2**20)] = Field(
        0,
        description="Images a rank trains on at a time, at most; gradients of a larger share of "
        "the batch are accumulated. 0 for all at once.",
    )
    sample_batch: Annotated[int, Field(ge=1, le=2**20)] = Field(
        192, description="Images sampled at a time."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage.")
    offload_optimizer: bool = Field(
        False,
        description="Keep the optimizer's moments in the CPU's memory and update there: less GPU "
        "memory, slower steps. Needs host.zero_stage 1 to 3.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Recompute the generator's blocks in the backward pass: less memory, up to "
        "a third more FLOPs.",
    )
    compile: bool = Field(
        False,
        description="Compile the models' blocks with torch.compile: faster steps after a minute or "
        "more of compiling. Needs host.zero_stage 0 to 2 and a C++ compiler.",
    )
    checkpoint_every: Positive = Field(100, description="Steps between resumable states.")
    log_every: Positive = Field(20, description="Steps between log lines.")
    trackers: tuple[Literal["dvclive", "tensorboard", "wandb", "mlflow"], ...] = Field(
        ("dvclive",),
        description="Where trainings are logged besides their own files: dvclive, tensorboard, "
        "wandb, mlflow (docs/training.md).",
    )

    @field_validator("trackers")
    @classmethod
    def _check_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a tracker is named twice")
        return names


def require_trackers(names: Iterable[str]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        InputError: if one is not; the message says how to install it.
    """
    for name in set(names) - {"dvclive"}:  # the others are extras named like their packages
        spec = find_spec(name)
        # a folder of this name, such as W&B's run folder, also has a spec but no origin
        if spec is None or spec.origin is None:
            raise InputError(
                f"host.trackers: the package of {name} is not installed: `pip install "
                f"'{DISTRIBUTION}[{name}]'` (in a checkout: `pip install -c constraints.txt -e "
                f"'.[{name}]'`), or leave {name} out"
            )
