"""Settings of the `joint` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gear.core.settings import Count, Positive, Rate, Section, Weight

# a support must be under this share of K; close to K, no temperature is hot enough
SUPPORT_LIMIT = 0.99


class SupportConfig(Section):
    """A temperature that is calibrated to an effective support."""

    support: Annotated[float, Field(gt=1, le=2**18)] = Field(
        description="Codes a token's soft assignment effectively spreads over, exp(H)."
    )


class JointConfig(Section):
    """The joint stage, which trains tokenizer and generator together."""

    recipe: Literal[
        "gear", "soft_hard_forward", "llamagen_repa", "llamagen", "continued", "ste"
    ] = Field("gear", description="Which losses reach which module: docs/recipes.md.")
    steps: Positive = Field(300, description="Optimiser steps.")
    batch: Positive = Field(64, description="Images a step over all ranks.")
    temperature: Annotated[float, Field(gt=0, le=1e6)] | SupportConfig = Field(
        0.1,
        description="tau of the soft assignment softmax(-d / tau), or {support: N} to calibrate it "
        "on the warm tokenizer.",
    )
    lambda_tok: Weight = Field(
        0.5, description="Weight of the soft alignment in the tokenizer's loss."
    )
    lambda_ar: Weight = Field(
        0.5, description="Weight of the hard alignment in the generator's loss."
    )
    lr_tokenizer: Rate = Field(0.001, description="AdamW learning rate of the tokenizer.")
    lr_generator: Rate = Field(0.002, description="AdamW learning rate of generator and projector.")
    fd_every: Count = Field(
        100,
        description="Steps between Fréchet distances of fresh samples, for the curve; 0 for none.",
    )
    fd_n: Annotated[int, Field(ge=2, le=10**7)] = Field(448, description="Samples of each of them.")
