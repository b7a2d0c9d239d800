"""Made-up records of a study's runs."""

from __future__ import annotations

from typing import Any

from gear.runs.study_records import Record

STEPS = range(0, 401, 100)


def record(arm: str, seed: int, fd: list[float], **fields: Any) -> Record:
    """Return a record whose curve has the values `fd` at STEPS; fields replace those made up."""
    protocol = {"n": 4, "seeds": seed, **fields.pop("protocol", {})}
    values: dict[str, Any] = {
        "settings": {"joint.steps": 400},
        "commit": "",
        "code": "",
        "plan": "",
        "curve_protocol": {"fd": {"n": 4}},
        "metrics": {"fd": {"value": fd[-1], "protocol": protocol}},
        "curve": [{"step": s, "fd": v, "loss/ntp": v} for s, v in zip(STEPS, fd, strict=True)],
        "warm_up": [],
        "seconds": {"tokenizer": 50.0, "joint": 100.0},
        "flops": {"tokenizer": 1e12, "joint": 4e12},
        "provenance": {},
    }
    return Record(arm=arm, seed=seed, **{**values, **fields})
