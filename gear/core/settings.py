"""Checked, frozen sections of settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gear.core.errors import InputError

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class UndeclaredParamError(AttributeError):
    """A stage read a setting that dvc.yaml does not declare for it."""


class Section(BaseModel):
    """A part of params.yaml.

    It is frozen, every field has a default and a description, and unknown keys are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> Self:
        """Return a section made from those of `values` that are its fields; others are ignored.

        Raises:
            InputError: if one of the fields is absent: no default is invented.
        """
        absent = [name for name in cls.model_fields if name not in values]
        if absent:
            raise InputError(f"{cls.__name__}: no {absent[0]!r} given")
        return cls.model_validate({name: values[name] for name in cls.model_fields})

    def restricted_to(self, names: Collection[str]) -> Self:
        """Return a copy with some of its fields; reading another raises `UndeclaredParamError`."""
        copy = self.model_copy()
        for name in set(type(self).model_fields) - set(names):
            copy.__dict__.pop(name)
        return copy

    def __getattr__(self, name: str) -> Any:
        """Raise a clear error for a field that was left out.

        Python calls this only if the usual look-up fails.
        """
        if name in type(self).model_fields:
            raise UndeclaredParamError(
                f"{type(self).__name__}.{name} is read by a stage "
                "that does not declare it in dvc.yaml"
            )
        return super().__getattr__(name)  # type: ignore[misc]


Model = TypeVar("Model", bound=Section)


class PinnedFile(Section):
    """A local weights file and the hash that it must have."""

    path: str = Field("", description="File on this machine; empty for none.")
    sha256: str = Field("", description="Its sha256.")


def parse_section(model: type[Model], values: dict[str, Any], prefix: str) -> Model:
    """Return a section made from `values`; `prefix` stands before the key in errors.

    Raises:
        InputError: if a value is not allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{prefix}{key}: {first['msg'].removeprefix('Value error, ')}") from None
