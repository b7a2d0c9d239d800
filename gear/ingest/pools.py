"""Pools that decode slices of a source: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import gear
from gear.core.errors import InputError
from gear.core.host_config import HostConfig
from gear.process import exit_with

CONNECT = 30  # seconds to wait for a scheduler, and for its first worker
PACKAGES = ("core", "data", "ingest")  # of gear: their code determines decoded pictures
LIBRARIES = ("numpy", "pillow", "simplejpeg")

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class Pool:
    """Processes that call functions of picklable arguments.

    width: Number of calls that run at once.
    broken: Exceptions that mean that a process died.
    fault: Why it may have died, for the error message.
    remedy: What to do about it, for the error message.
    code: Expected `code_identity` of the processes; empty for no check.
    """

    executor: Executor
    width: int
    broken: tuple[type[BaseException], ...]
    fault: str
    remedy: str
    code: dict[str, str]

    def submit(self, function: Callable[[A], R], argument: A) -> Future[R]:
        """Call a function in one of the processes."""
        if not self.code:
            return self.executor.submit(function, argument)
        return self.executor.submit(partial(_call_same_code, self.code, function), argument)


@contextmanager
def open_pool(host: HostConfig) -> Iterator[Pool]:
    """Yield a pool on the Dask cluster `host.cluster`, or of `host.workers` local processes.

    Raises:
        InputError: if Dask is not installed, or the cluster does not answer or has no workers.
    """
    with _cluster(host.cluster) if host.cluster else _processes(host.workers) as pool:
        yield pool


@contextmanager
def _processes(count: int) -> Iterator[Pool]:
    executor = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    )
    fault = "a decoding process died, for want of memory or by a fault of a decoder"
    remedy = "free memory or lower host.workers; if it happens again, take that file out"
    with executor:
        yield Pool(executor, count, (BrokenProcessPool,), fault, remedy, {})


def _end_with(parent: int) -> None:
    """Terminate this process when its parent exits, or at once if that has exited already."""
    exit_with(parent)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def _cluster(address: str) -> Iterator[Pool]:
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise InputError(
            "host.cluster needs Dask: `pip install -c constraints.txt -e '.[dask]'`"
        ) from None
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:  # ValueError: not an address
        raise InputError(
            f"host.cluster: no scheduler answers at {address} ({' '.join(str(error).split())}): "
            "start `dask scheduler` and workers, or leave it empty"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT)
        except TimeoutError:
            raise InputError(
                f"host.cluster: {address} has no workers: start `dask worker {address}`"
            ) from None
        width = sum(client.nthreads().values())
        broken = (KilledWorker, CancelledError)
        fault = "the scheduler of host.cluster went away, or several workers died"
        remedy = "see their logs; if workers die again, take that file out"
        with client.get_executor(pure=False) as executor:
            yield Pool(executor, width, broken, fault, remedy, code_identity())


def _call_same_code(code: dict[str, str], function: Callable[[A], R], argument: A) -> R:
    """Call a function on a Dask worker after checking that its code and libraries are the same.

    Raises:
        InputError: if this worker has other code or libraries.
    """
    differ = [f"{name} {own}" for name, own in code_identity().items() if own != code[name]]
    if differ:
        raise InputError(
            f"host.cluster: the worker on {socket.gethostname()} has {', '.join(differ)}, unlike "
            "this machine: install the same there (constraints.txt) and restart its workers"
        )
    return function(argument)


@cache
def code_identity() -> dict[str, str]:
    """Return the versions of libraries that affect decoded pictures, and a hash of gear's code."""
    root = Path(gear.__file__).parent
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((root / package).glob("*.py")):
            digest.update(file.name.encode() + file.read_bytes())
    return {name: version(name) for name in LIBRARIES} | {"gear": digest.hexdigest()[:12]}
