"""Settings of the `tokenizer` section."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gear.core.settings import Count, PinnedFile, Positive, Rate, Section


class TokenizerShape(Section):
    """Shape of the tokenizer."""

    quantizer: Literal["vq", "lfq", "ibq"] = Field(
        "vq", description="Quantizer, and with it the backbone: MAGVIT-2's for lfq."
    )
    codes: Annotated[int, Field(ge=2, le=2**18)] = Field(512, description="Codebook size K.")
    code_dim: Annotated[int, Field(ge=1, le=1024)] = Field(8, description="Code width D.")
    base: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] = Field(
        32, description="Channels of the first level."
    )
    multipliers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        (1, 2, 2),
        min_length=2,
        max_length=8,
        description="Channels a level in units of base; f = 2^(levels-1).",
    )
    blocks: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Residual blocks a level in the encoder; the decoder has one more."
    )
    z_channels: Annotated[int, Field(ge=1, le=16384)] = Field(
        64, description="Channels of the latent before the 1x1 conv to code_dim."
    )

    @model_validator(mode="after")
    def _check_lfq(self) -> Self:
        if self.quantizer == "lfq" and not (
            2**self.code_dim == self.codes and self.z_channels == self.code_dim
        ):
            wanted = max(1, (self.codes - 1).bit_length())
            raise ValueError(
                "lfq's codes are the signs of its latent channels: set code_dim and z_channels to "
                f"{wanted} and codes to {2**wanted}"
            )
        return self

    @property
    def factor(self) -> int:
        """Downsampling factor f."""
        result: int = 2 ** (len(self.multipliers) - 1)
        return result


class TokenizerConfig(TokenizerShape):
    """The tokenizer and its warm-up (stage 0)."""

    steps: Count = Field(400, description="Warm-up steps; may be 0 where `init` names a tokenizer.")
    init: PinnedFile = Field(
        PinnedFile(),
        description="Native tokenizer to start from (`gear import` makes one): its "
        "model.safetensors.",
    )
    batch: Positive = Field(64, description="Images a step over all ranks.")
    lr: Rate = Field(0.002, description="AdamW learning rate in warm-up.")

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if not self.steps and not self.init.path:
            raise ValueError(
                "steps 0 leaves the tokenizer at random: name one in init.path, or warm it up"
            )
        return self
