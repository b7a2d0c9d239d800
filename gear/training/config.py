"""Settings of the `run`, `train` and `health` sections."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gear.core.settings import Count, Positive, Section, Share, Weight


class TrainConfig(Section):
    """What every training stage shares."""

    balance: Literal["classes", "natural"] = Field(
        "classes",
        description="Batches in which every class is as likely as any other, or every image, as "
        "published.",
    )
    warmup: Count = Field(20, description="Steps of linear learning-rate warm-up; constant after.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.98, description="Decay of the averaged weights, tokenizer and generator alike."
    )
    clip: Annotated[float, Field(gt=0, le=1e9)] = Field(
        1.0, description="Gradient norm limit of each module."
    )
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="AdamW's second decay; published baselines did best at 0.95."
    )
    weight_decay: Weight = Field(
        0.0, description="AdamW weight decay of every module; published baselines did best at 0.05."
    )
    bf16: bool = Field(True, description="bf16 autocast; distances stay in fp32.")
    portable: bool = Field(
        False,
        description="The same bits on other x86-64 processors: AVX2, two threads, fp32; slower.",
    )

    @model_validator(mode="after")
    def _check_portable(self) -> Self:
        if self.portable and self.bf16:
            raise ValueError(
                "portable needs fp32: set bf16 to false, since processors without bf16 units "
                "round elsewhere"
            )
        return self


class HealthConfig(Section):
    """When training stops because the codebook collapses."""

    min_usage: Share = Field(0.1, description="Minimum codebook usage over a health window.")
    min_perplexity: Share = Field(
        0.05, description="Minimum perplexity over a health window, as a share of K."
    )
    window: Positive = Field(20, description="Steps of a health window.")
    after_step: Count = Field(60, description="First step at which the gate may stop a run.")
