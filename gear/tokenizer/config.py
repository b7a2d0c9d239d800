"""Settings of the `tokenizer` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gear.core.settings import Count, PinnedFile, Positive, Rate, Section


class TokenizerConfig(Section):
    """The autoencoder and its warm-up (GEAR, Quantizers and Backbones)."""

    quantizer: Literal["vq", "lfq", "ibq"] = Field(
        description="Quantizer, and with it the backbone: MAGVIT-2's for lfq."
    )
    codes: Annotated[int, Field(ge=2, le=2**18)] = Field(description="Codebook size K.")
    code_dim: Positive = Field(description="Code width D.")
    base: Annotated[int, Field(ge=8, multiple_of=8)] = Field(
        description="Channels of the first level."
    )
    multipliers: tuple[Positive, ...] = Field(
        min_length=2, description="Channels a level in units of base; f = 2^(levels-1)."
    )
    blocks: Positive = Field(
        description="Residual blocks a level in the encoder; the decoder has one more."
    )
    z_channels: Positive = Field(
        description="Channels of the latent before the 1x1 conv to code_dim."
    )
    steps: Count = Field(description="Warm-up steps; may be 0 where `init` names a tokenizer.")
    init: PinnedFile = Field(
        default_factory=lambda: PinnedFile(path="", sha256=""),
        description="Native tokenizer to start from (`gear import` makes one): its model.safetensors.",
    )
    batch: Positive = Field(description="Images a step over all ranks.")
    lr: Rate = Field(description="AdamW learning rate in warm-up.")

    @model_validator(mode="after")
    def _lfq(self) -> TokenizerConfig:
        if not self.steps and not self.init.path:
            raise ValueError(
                "steps 0 leaves the tokenizer at random: name one in init.path, or warm it up"
            )
        if self.quantizer == "lfq" and not (
            2**self.code_dim == self.codes and self.z_channels == self.code_dim
        ):
            wanted = max(1, (self.codes - 1).bit_length())
            raise ValueError(
                f"lfq's codes are the signs of its latent channels: set code_dim and z_channels to {wanted} and codes to {2**wanted}"
            )
        return self

    @property
    def factor(self) -> int:
        """Downsampling factor f."""
        return 2 ** (len(self.multipliers) - 1)
