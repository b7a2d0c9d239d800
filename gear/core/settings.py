"""Checked, frozen sections of settings."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gear.core.errors import InputError

Positive = Annotated[int, Field(ge=1)]

Count = Annotated[int, Field(ge=0)]

Share = Annotated[float, Field(ge=0, le=1)]

Rate = Annotated[float, Field(gt=0, le=1)]

Weight = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


Model = TypeVar("Model", bound=Section)


class PinnedFile(Section):
    """A local weights file that a run may use, pinned."""

    path: str = Field("", description="File on this machine; empty for none.")
    sha256: str = Field("", description="What its sha256 must be.")


def parse_section(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """A section of settings from elsewhere than params.yaml; `where` stands before the key in errors. Raises `InputError`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}{key}: {first['msg'].removeprefix('Value error, ')}") from None
