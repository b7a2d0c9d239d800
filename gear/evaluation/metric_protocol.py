"""A metric with the protocol that makes it comparable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gear.core.errors import InputError


@dataclass(frozen=True)
class Metric:
    """A value with everything that determines how it was measured."""

    value: float
    protocol: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return value and protocol as a dictionary."""
        return asdict(self)


def require_records(value: Any, source: str) -> dict[str, dict[str, Any]]:
    """Return the metric records of a file, by name, after checking their form.

    Raises:
        InputError: if `value` is anything else; `source` names the file.
    """
    entries = value.items() if isinstance(value, dict) else [("", None)]
    for name, record in entries:
        fits = (
            isinstance(record, dict)
            and isinstance(record.get("value"), int | float)
            and isinstance(record.get("protocol"), dict)
        )
        if not fits:
            what = f"{name!r} is no value with its protocol" if name else "no metrics in it"
            raise InputError(f"{source}: damaged, {what}: `dvc repro evaluate` writes it anew")
    return dict(entries)


def difference(first: Metric, second: Metric) -> float:
    """Return second - first.

    Raises:
        ValueError: if their protocols differ; the message names how.

    >>> difference(Metric(1.0, {"n": 5}), Metric(3.0, {"n": 5}))
    2.0
    """
    keys = sorted(first.protocol.keys() | second.protocol.keys())
    unlike = [
        f"{k}: {first.protocol.get(k)!r} against {second.protocol.get(k)!r}"
        for k in keys
        if first.protocol.get(k) != second.protocol.get(k)
    ]
    if unlike:
        raise ValueError(f"measured under different protocols, not comparable: {'; '.join(unlike)}")
    return second.value - first.value
