"""A metric with the protocol that makes it comparable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from gear.core.errors import InputError

# keys of a protocol
ABSENT = "absent"  # why the metric could not be computed
DISTINCT = "distinct_images"  # number of different images that a floor is measured on
OF_A_RUN = {"seeds", "seed", "threshold", "deviation"}  # keys that differ between comparable runs


@dataclass(frozen=True)
class Metric:
    """A value with everything that determines how it was measured."""

    value: float
    protocol: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return value and protocol as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Absent:
    """A metric that cannot be computed; `reason` says why in one line."""

    reason: str

    def record(self) -> dict[str, Any]:
        """Return a record like that of a metric, whose value is None."""
        return {"value": None, "protocol": {ABSENT: self.reason}}


def protocol_hash(protocol: dict[str, Any]) -> str:
    """Return a short hash that is equal for protocols whose values can be compared.

    >>> protocol_hash({"n": 4, "seeds": "0 * 2"}) == protocol_hash({"n": 4, "seeds": "1 * 2"})
    True
    >>> protocol_hash({"n": 4}) == protocol_hash({"n": 5})
    False
    """
    shared = {key: value for key, value in protocol.items() if key not in OF_A_RUN}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]


def describe(record: dict[str, Any]) -> str:
    """Return the value of a record as text, or why it has none.

    >>> describe(Metric(0.25, {"n": 4}).record()), describe(Absent("no images").record())
    ('0.25', 'not computed: no images')
    """
    if record["value"] is None:
        return f"not computed: {record['protocol'][ABSENT]}"
    return f"{record['value']:.5g}"


def require_records(value: Any, source: str) -> dict[str, dict[str, Any]]:
    """Return the records of metrics that have a value, by name, after checking the form of all.

    Raises:
        InputError: if `value` is anything else; `source` names the file.
    """
    entries: dict[str, Any] = value if isinstance(value, dict) else {"": None}
    for name, record in entries.items():
        if not _is_record(record):
            what = f"{name!r} is no value with its protocol" if name else "no metrics in it"
            raise InputError(f"{source}: damaged, {what}: `dvc repro evaluate` writes it anew")
    return {name: record for name, record in entries.items() if record["value"] is not None}


def _is_record(record: Any) -> bool:
    protocol = record.get("protocol") if isinstance(record, dict) else None
    if not isinstance(protocol, dict):
        return False
    value = record.get("value")
    return isinstance(value, int | float) or (value is None and ABSENT in protocol)


def absent_records(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of metrics that could not be computed, by name; other values are ignored.

    >>> list(absent_records({"fd": Absent("no images").record(), "name": "a"}))
    ['fd']
    """
    return {
        name: record
        for name, record in values.items()
        if isinstance(record, dict) and record.get("value", 0) is None
    }


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
