"""Validated, immutable sections of params.yaml."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import ErrorDetails

from gear.core.errors import InputError
from gear.core.text import one_line, printable

MOST = 10**9  # upper limit of counts, such as steps and images
NO_MAPPING = ("model_type", "model_attributes_type", "dict_type")  # pydantic's error types
QUOTED = 60  # maximum characters of a value in an error message


Positive = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class UndeclaredParamError(AttributeError):
    """A stage read a setting that dvc.yaml does not declare for it."""


class Section(BaseModel):
    """A part of params.yaml.

    Instances are frozen, unknown keys are refused, and every field has a description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> Self:
        """Return a section from those of `values` that are its fields; others are ignored.

        Raises:
            InputError: if a field is absent (defaults are not filled in) or its value not allowed.
        """
        absent = [name for name in cls.model_fields if name not in values]
        if absent:
            raise InputError(f"{cls.__name__}: no {absent[0]!r} given")
        return parse_section(cls, {name: values[name] for name in cls.model_fields}, "")

    def restricted_to(self, names: Collection[str]) -> Self:
        """Return a copy with only these fields; reading another raises `UndeclaredParamError`."""
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
        InputError: if a value is not allowed; one line names its key.
    """
    try:
        refuse_truth_values(model, values, "")
        return model.model_validate(values)
    except ValidationError as error:
        key, _, message = faults(model, error)[0]
        name = f"{prefix}{key}" if key else prefix.rstrip("-.: ")  # of the section itself
        raise InputError(f"{name}: {message}" if name else message) from None
    except InputError as error:
        raise InputError(f"{prefix}{error}") from None


def refuse_truth_values(model: type[BaseModel], values: Any, prefix: str) -> None:
    """Raise `InputError` for true or false in a field that is not bool: pydantic reads 1 or 0."""
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None or field.annotation is bool:
            continue
        is_list = isinstance(value, list | tuple)
        items = value if is_list else [value]
        if any(isinstance(item, bool) for item in items):
            raise InputError(f"{prefix}{name} = {quoted(value)}: true and false are no value of it")
        for number, item in enumerate(items):
            place = f"{prefix}{name}.{number}." if is_list else f"{prefix}{name}."
            # a section, a list of sections, or one of several types of which one is a section
            for inner in (field.annotation, *get_args(field.annotation)):
                if _is_section(inner):
                    refuse_truth_values(inner, item, place)


def faults(model: type[BaseModel], error: ValidationError) -> list[tuple[str, str, str]]:
    """Return the refused settings as (key, value, reason), one entry per key.

    The value is empty if showing it would not help. For a union, the error is that of the member
    that the value was meant for.
    """
    found: dict[str, ErrorDetails] = {}
    for one in error.errors(include_url=False):
        key = dotted_key(model, one["loc"])
        if key not in found or found[key]["type"] in NO_MAPPING:
            found[key] = one
    inner = {key.rpartition(".")[0] for key in found if "." in key}
    return [(key, *_what(one)) for key, one in found.items() if key not in inner]


def quoted(value: Any) -> str:
    """Return a value as error messages show it: printable, at most `QUOTED` characters.

    >>> quoted("a" * 100)[:8], len(quoted("a" * 100))
    ("'aaaaaaa", 60)
    """
    return one_line(repr(value), QUOTED)


def _what(one: ErrorDetails) -> tuple[str, str]:
    """Return the value and the reason of a refusal."""
    kind, message = one["type"], one["msg"].removeprefix("Value error, ")
    if kind in NO_MAPPING:
        message = "Input should be a mapping of names to values"
    if kind in ("tuple_type", "list_type"):
        message = "Input should be a list"
    return "" if kind in ("value_error", "missing") else quoted(one["input"]), message


def dotted_key(model: Any, loc: tuple[int | str, ...]) -> str:
    """Return the dotted key of a pydantic error location, without names of union members."""
    parts: list[str] = []
    for part in loc:
        if isinstance(part, int):
            parts.append(str(part))
            continue
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = fields[part].annotation
            parts.append(part)
            continue
        choice = next((c for c in get_args(model) if getattr(c, "__name__", "") == part), None)
        if choice is not None:
            model = choice
        elif _is_section(model):  # a key that does not exist
            parts.append(part)
    return printable(".".join(parts))


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
