"""Test ingest on a Dask cluster: the same shards as locally, even if a worker dies."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from gear import paths
from gear.core.errors import InputError
from gear.core.host_config import HostConfig
from gear.ingest import pools
from gear.ingest.decode import decode_slice
from gear.ingest.fan_out import SLICE, SLICES, decode_samples
from gear.ingest.records import EncodedSample, FileRange, Picture, Reject
from gear.ingest.webdataset import webdataset
from gear.stages import ingest
from tests.support.datasets import good, picture, write_tar
from tests.support.settings import tiny_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as started:
        yield started


@pytest.fixture(scope="module")
def host(cluster: LocalCluster) -> HostConfig:
    return HostConfig(cluster=cluster.scheduler_address)


def shards() -> dict[str, bytes]:
    files = [file for file in sorted(paths.SHARDS.rglob("*")) if file.is_file()]
    return {str(file): file.read_bytes() for file in files}


def pixels(found: Picture | Reject) -> object:
    return (found.key, found.image) if isinstance(found, Picture) else found


def test_a_cluster_writes_the_shards_that_one_machine_writes(host: HostConfig) -> None:
    for number in range(4):
        write_tar(Path(f"root/{number}.tar"), good(40))
    whole = Path("root/3.tar").read_bytes()
    Path("root/3.tar").write_bytes(whole[: len(whole) // 2])
    bad = [("9.png", b"no picture"), ("9.txt", b"a caption")]
    write_tar(Path("root/4.tar"), [*good(10), *bad])
    data = {"source": "webdataset", "root": "root", "max_reject_share": 0.3, "val_share": 0.2}
    ingest.run(tiny_settings(data=data, host={"workers": 1}))
    local = shards()
    shutil.rmtree(paths.SHARDS)
    ingest.run(tiny_settings(data=data, host={"cluster": host.cluster}))
    assert shards() == local
    assert len(local) > 3


def samples(count: int) -> list[EncodedSample | Reject]:
    few = [picture(number) for number in range(9)]
    made: list[EncodedSample | Reject] = [
        EncodedSample(f"{number}", f"caption {number}", "x", few[number % 9])
        for number in range(count)
    ]
    made[5] = Reject("5", "no image")
    return made


def test_slices_of_a_worker_that_died_are_decoded_by_others(
    cluster: LocalCluster, host: HostConfig
) -> None:
    made = samples(12 * SLICE + 3)
    expected = [pixels(found) for found in decode_slice(made, 32, "png")]
    decoded = decode_samples(iter(made), 32, "png", host)
    found = [pixels(next(decoded))]
    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
    found += [pixels(rest) for rest in decoded]
    assert found == expected


def test_few_slices_are_on_their_way_at_a_time(host: HostConfig) -> None:
    read = 0

    def source() -> Iterator[EncodedSample | Reject]:
        nonlocal read
        for sample in samples(20 * SLICE):
            read += 1
            yield sample

    decoded = decode_samples(source(), 32, "png", host)
    next(decoded)
    assert read <= 2 * SLICES * SLICE + 1
    decoded.close()


def test_what_fails_in_a_worker_fails_as_it_does_here(host: HostConfig) -> None:
    write_tar(Path("root/a.tar"), good(6))
    listed = list(webdataset(Path("root"), "caption", 0.0))
    Path("root/a.tar").write_bytes(b"cut")
    messages = []
    for where in (host, HostConfig(workers=1)):
        with pytest.raises(InputError, match=r"a\.tar: became shorter") as caught:
            list(decode_samples(iter(listed), 32, "png", where))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_file_that_workers_do_not_see_is_named(host: HostConfig) -> None:
    gone = EncodedSample("a", "a", "a", FileRange(Path("/nowhere/a.tar"), 0, 9))
    with pytest.raises(InputError, match=r"/nowhere/a\.tar: cannot be read .*host\.cluster"):
        list(decode_samples(iter([gone]), 32, "png", host))


def test_a_worker_with_other_code_is_refused(
    host: HostConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = pools.code_identity() | {"pillow": "1.0"}
    monkeypatch.setattr(pools, "code_identity", lambda: code)
    with pytest.raises(InputError, match=r"the worker on .* has pillow \d+\.\d+.*, unlike this"):
        list(decode_samples(iter(samples(9)), 32, "png", host))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "not an address", "ftp://127.0.0.1:1"])
def test_an_address_without_a_scheduler_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "CONNECT", 1)
    with pytest.raises(InputError, match=r"host\.cluster: no scheduler answers") as caught:
        list(decode_samples(iter(samples(9)), 32, "png", HostConfig(cluster=address)))
    assert "\n" not in str(caught.value)
