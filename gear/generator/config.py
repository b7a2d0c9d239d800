"""Settings of the `generator` and `sample` sections."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gear.core.settings import Count, Dropout, Positive, Section, Share


class GeneratorShape(Section):
    """Shape of the autoregressive transformer and its projector."""

    layers: Annotated[int, Field(ge=1, le=512)] = Field(6, description="Transformer blocks.")
    heads: Annotated[int, Field(ge=1, le=512)] = Field(6, description="Attention heads.")
    width: Annotated[int, Field(ge=4, le=32768)] = Field(192, description="Model width d.")
    tap: Positive = Field(3, description="Blocks before the residual stream is read for alignment.")
    dropout: Dropout = Field(
        0.1, description="On tokens, residual and feed-forward; none in attention."
    )
    class_dropout: Share = Field(
        0.1, description="Probability of the null class, or the empty caption, in training."
    )
    prefix_rope: Literal["identity", "zero"] = Field(
        "identity", description="Rotation of prefix positions; `zero` only to run public weights."
    )
    projector_hidden: Annotated[int, Field(ge=1, le=65536)] = Field(
        512, description="Hidden width of the alignment projector."
    )

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width {self.width} is not a multiple of 4 x heads ({self.heads}): "
                "2-D rotary positions need it"
            )
        if self.tap > self.layers:
            raise ValueError(f"tap {self.tap} is past the last of {self.layers} layers")
        return self


class GeneratorConfig(GeneratorShape):
    """The generator and its training on the frozen tokenizer (stage 2)."""

    start: Literal["joint", "scratch"] = Field(
        "joint", description="Stage 2 trains the joint stage's generator on, or a fresh one."
    )
    steps: Count = Field(
        0, description="Steps of the generator alone on the frozen tokenizer; may be 0."
    )

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.start == "scratch" and not self.steps:
            raise ValueError(
                "start: scratch with steps: 0 would sample from random weights: give it steps"
            )
        return self


class SampleConfig(Section):
    """How images are drawn from the generator."""

    n: Annotated[int, Field(ge=1, le=10**7)] = Field(
        1344, description="Images, balanced over classes."
    )
    guidance: Annotated[float, Field(ge=1, le=1000)] = Field(
        1.0, description="Classifier-free guidance scale; 1 is none."
    )
    grid_guidance: Annotated[float, Field(ge=0, le=1000)] = Field(
        0,
        description="Guidance scale of the grid of samples in the report, which no metric is of; "
        "0 to show the samples that are measured.",
    )
    interval: tuple[Share, Share] = Field(
        (0.0, 1.0), description="Shares of the sequence between which guidance holds."
    )
    temperature: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="Softmax temperature."
    )
    top_k: Count = Field(0, description="Keep the k likeliest codes; 0 for all.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Keep the likeliest codes up to this mass; 1 for all."
    )
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(
        (),
        max_length=256,
        description="Captions drawn for the report beside the validation captions "
        "(condition caption).",
    )

    @model_validator(mode="after")
    def _grid(self) -> SampleConfig:
        if 0 < self.grid_guidance < 1:
            raise ValueError(f"grid_guidance {self.grid_guidance:g}: must be 0, or 1 or more")
        return self

    @model_validator(mode="after")
    def _rising(self) -> SampleConfig:
        if self.interval[0] >= self.interval[1]:
            raise ValueError(
                f"interval {list(self.interval)}: the first share must be under the second"
            )
        return self
