"""A metric with the protocol that makes it comparable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A value and everything that determines it."""

    value: float
    protocol: dict[str, Any]

    def record(self) -> dict[str, Any]:
        return asdict(self)


def difference(first: Metric, second: Metric) -> float:
    """second - first. Raises ValueError, naming how they differ, unless the protocols are equal."""
    keys = sorted(first.protocol.keys() | second.protocol.keys())
    unlike = [
        f"{k}: {first.protocol.get(k)!r} against {second.protocol.get(k)!r}"
        for k in keys
        if first.protocol.get(k) != second.protocol.get(k)
    ]
    if unlike:
        raise ValueError(f"measured under different protocols, not comparable: {'; '.join(unlike)}")
    return second.value - first.value
