"""Decode a source in slices, in the processes of a pool.

Results are in the order of the source, so they do not depend on the pool. The number of pending
slices is limited, so memory does not grow with the source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

from gear.core.errors import StageFailed
from gear.core.host_config import HostConfig
from gear.core.text import one_line
from gear.ingest.decode import decode_slice
from gear.ingest.pools import open_pool
from gear.ingest.records import EncodedSample, Picture, Reject

SLICE = 64  # samples
SLICE_BYTES = 8 << 20  # of encoded images that a slice carries; a single image may be larger
SLICES = 2  # pending per process: one is decoded, one waits

Slice = list[EncodedSample | Reject]


def decode_samples(
    samples: Iterator[EncodedSample | Reject], size: int, encoding: str, host: HostConfig
) -> Iterator[Picture | Reject]:
    """Yield the decoded samples in order; rejects are passed through.

    Args:
        samples: From a source.
        size: Side of the pictures in pixels.
        encoding: The setting data.encoding.
        host: Settings of the pool (`open_pool`).

    Raises:
        InputError: if an archive cannot be read, or host.cluster cannot be used.
        StageFailed: if decoding processes died.
    """
    decode = partial(decode_slice, size=size, encoding=encoding)
    waiting: deque[tuple[Slice, Future[list[Picture | Reject]]]] = deque()
    with open_pool(host) as pool:
        try:
            for part in _slices(samples):
                waiting.append((part, pool.submit(decode, part)))
                if len(waiting) == SLICES * pool.width:
                    yield from waiting[0][1].result()
                    waiting.popleft()
            while waiting:
                yield from waiting[0][1].result()
                waiting.popleft()
        except pool.broken:
            files = [one_line(_name(sample), 80) for part, _ in waiting for sample in part]
            raise StageFailed(
                f"{pool.fault}, at one of the {len(files)} files from {files[0]} to {files[-1]}: "
                f"{pool.remedy}"
            ) from None
        finally:
            for _, future in waiting:
                future.cancel()


def _slices(samples: Iterator[EncodedSample | Reject]) -> Iterator[Slice]:
    part: Slice = []
    room = SLICE_BYTES
    for sample in samples:
        part.append(sample)
        if isinstance(sample, EncodedSample) and isinstance(sample.image, bytes):
            room -= len(sample.image)
        if len(part) == SLICE or room <= 0:
            yield part
            part, room = [], SLICE_BYTES
    if part:
        yield part


def _name(sample: EncodedSample | Reject) -> str:
    return sample.file if isinstance(sample, Reject) else sample.key
