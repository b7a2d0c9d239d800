"""Settings of the `teacher` and `text` sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gear.core.settings import Section


class TeacherConfig(Section):
    """A frozen encoder whose patch features guide the tokenizer and generator."""

    name: Literal["efficientnet-lite0", "dinov2", "dinov3", "siglip2", "clip", "vjepa2"] = Field(
        "efficientnet-lite0",
        description="Encoder; the first comes with the packages, the others need `path`.",
    )
    input_size: Annotated[int, Field(ge=32, le=2048)] = Field(
        128, description="Side of its input, pixels."
    )
    layer: Annotated[int, Field(ge=-1, le=1000)] = Field(
        -1, description="Block or hidden state that is read; -1 for the last."
    )
    spatial: Literal["none", "mean", "standard"] = Field(
        "none",
        description="Take 0.6 of the mean token away; `standard` also divides by the "
        "deviation over positions.",
    )
    path: str = Field("", description="Folder of config.json and model.safetensors.")
    sha256: str = Field("", description="What the sha256 of model.safetensors must be.")


class TeachersConfig(Section):
    """The teachers; with several, the alignment loss is their mean."""

    encoders: tuple[TeacherConfig, ...] = Field(
        (TeacherConfig(),), min_length=1, max_length=8, description="One or more encoders."
    )
    cache: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Keep the features of training images on disk, or compute them in every step; "
        "auto keeps up to 64 GiB.",
    )


class TextConfig(Section):
    """The frozen text encoder; unused if data.condition is class."""

    encoder: Literal["minilm", "qwen3", "t5"] = Field(
        "minilm", description="`minilm` comes with the packages, the others need `path`."
    )
    tokens: Annotated[int, Field(ge=2, le=512)] = Field(
        32, description="Tokens of a caption, at most; what is longer is cut."
    )
    path: str = Field("", description="Folder of config.json, tokenizer and *.safetensors.")
    sha256: str = Field(
        "",
        description="What the sha256 of its *.safetensors, in the order of their names, must be.",
    )
