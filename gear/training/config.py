"""Settings of the `run`, `train` and `health` sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gear.core.settings import Count, Positive, Section, Share, Weight


class RunConfig(Section):
    """What all stages share."""

    seed: Count = Field(description="Seed of every random draw in the run.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="Where to compute; auto takes a GPU if there is one."
    )


class TrainConfig(Section):
    """What every training stage shares."""

    warmup: Count = Field(description="Steps of linear learning-rate warm-up; constant after.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Decay of the averaged weights, tokenizer and generator alike."
    )
    clip: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Gradient norm limit of each module."
    )
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.999, description="AdamW's second decay; published baselines did best at 0.95."
    )
    weight_decay: Weight = Field(
        0.0, description="AdamW weight decay of every module; published baselines did best at 0.05."
    )
    bf16: bool = Field(description="bf16 autocast; distances stay in fp32.")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage.")
    log_every: Positive = Field(description="Steps between log lines.")
    checkpoint_every: Positive = Field(description="Steps between resumable states.")


class HealthConfig(Section):
    """When training stops because the codebook collapses."""

    min_usage: Share = Field(description="Least share of codes in use over a health window.")
    min_perplexity: Share = Field(
        description="Least perplexity over a health window, as a share of K."
    )
    window: Positive = Field(description="Steps a health window.")
    after_step: Count = Field(description="First step at which the gate may stop a run.")
