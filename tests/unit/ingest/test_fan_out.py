"""Test decoding in local processes; tests/distributed/test_dask.py tests a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from gear.core.errors import StageFailed
from gear.core.host_config import HostConfig
from gear.ingest.decode import decode_slice
from gear.ingest.fan_out import SLICE, decode_samples
from gear.ingest.records import EncodedSample, Picture, Reject
from tests.support.datasets import picture

PICTURE = picture(0)


def samples() -> Iterator[EncodedSample | Reject]:
    number = 0
    while True:
        image = PICTURE if number % 7 else b"no picture"
        yield EncodedSample(f"{number}", f"caption {number}", "x", image)
        number += 1


def content(found: Picture | Reject) -> object:
    return (found.key, found.image) if isinstance(found, Picture) else found


def test_processes_give_what_the_function_gives_in_order() -> None:
    source = samples()
    some = [next(source) for _ in range(5 * SLICE + 3)]
    here = [content(found) for found in decode_slice(some, 32, "png")]
    decoded = decode_samples(iter(some), 32, "png", HostConfig(workers=2))
    assert [content(found) for found in decoded] == here


def test_a_process_that_dies_ends_ingest_and_the_files_are_named() -> None:
    decoded = decode_samples(samples(), 32, "png", HostConfig(workers=1))
    before = set(psutil.Process().children())
    next(decoded)
    started = set(psutil.Process().children()) - before
    for child in [c for c in started if "spawn_main" in " ".join(c.cmdline())]:
        child.kill()
    with pytest.raises(StageFailed, match=r"process died.* of the \d+ files from \d+ to \d+: free"):
        list(decoded)
