"""Settings of the `evaluate` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gear.core.settings import PinnedFile, Section


class EvaluateConfig(Section):
    """The evaluation protocol."""

    neighbours: Annotated[int, Field(ge=1, le=1000)] = Field(
        5, description="k of the coverage and recall manifolds."
    )
    input_size: Annotated[int, Field(ge=32, le=2048, multiple_of=16)] = Field(
        128, description="Side of the FD extractor's input, pixels."
    )
    guidances: tuple[Annotated[float, Field(ge=1, le=1000)], ...] = Field(
        (), max_length=64, description="Guidance scales of the sweep; none, no sweep."
    )
    guidance_n: Annotated[int, Field(ge=2, le=10**7)] = Field(
        448, description="Samples at each scale of the sweep."
    )
    clip: PinnedFile = Field(
        PinnedFile(),
        description="CLIP's model.safetensors, in a folder with its config and processor, "
        "for CLIPScore (condition caption).",
    )
    inception: PinnedFile = Field(
        PinnedFile(),
        description="torch-fidelity's Inception weights "
        "(weights-inception-2015-12-05-6726825d.pth), for FID, sFID, IS, precision, recall.",
    )
    reference: PinnedFile = Field(
        PinnedFile(),
        description="Reference batch (.npz with mu, sigma, mu_s, sigma_s) for FID and sFID; "
        "empty for the training images.",
    )

    @model_validator(mode="after")
    def _reference(self) -> EvaluateConfig:
        if self.reference.path and not self.inception.path:
            raise ValueError(
                "reference holds Inception's statistics: name the weights in inception.path too"
            )
        return self
