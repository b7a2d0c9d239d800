"""Settings of the `loss` and `gan` sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gear.core.settings import Count, PinnedFile, Rate, Section, Weight


class LossConfig(Section):
    """Weights of the tokenizer's loss."""

    l1: Weight = Field(1.0, description="Absolute error of pixels.")
    perceptual: Weight = Field(
        1.0,
        description="LPIPS where `vgg16` names weights, else distance of the packaged encoder's "
        "early features.",
    )
    vgg16: PinnedFile = Field(
        PinnedFile(),
        description="torchvision's VGG16 weights (vgg16-397923af.pth), for LPIPS.",
    )
    codebook: Weight = Field(1.0, description="Codes towards latents.")
    commitment: Weight = Field(0.25, description="Latents towards codes.")
    entropy: Weight = Field(0.05, description="Sharp assignments, even use of codes.")
    adversarial: Weight = Field(0.1, description="Weight of the discriminator's verdict.")
    adaptive: bool = Field(
        False,
        description="Scale the verdict to the reconstruction's gradient at the decoder's "
        "last layer.",
    )


class GanConfig(Section):
    """PatchGAN discriminator of the tokenizer's stages."""

    start_step: Count = Field(
        1000000,
        description="Tokenizer step (warm-up and joint counted together) at which it joins; "
        "a number past the end leaves it out.",
    )
    filters: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="Channels of the discriminator's first layer."
    )
    layers: Annotated[int, Field(ge=1, le=6)] = Field(2, description="Strided layers.")
    lr: Rate = Field(0.0002, description="AdamW learning rate.")
    lecam: Weight = Field(0.0, description="Weight of LeCam regularisation; for small data.")


def most_discriminator_layers(size: int) -> int:
    """Return the largest `gan.layers` for images of `size` x `size` pixels.

    Each strided layer halves the side, rounded down. The two layers after them take one pixel each,
    so three have to be left.

    >>> [most_discriminator_layers(size) for size in (16, 32, 256)]
    [2, 3, 6]
    """
    return (size // 3).bit_length() - 1
