"""Run a temporary PostgreSQL cluster from Debian's packages."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.support.toys import free_port


@contextmanager
def cluster() -> Iterator[str]:
    """Run a PostgreSQL cluster; yield its address for Prefect.

    Fails if PostgreSQL is not installed, as CI must not skip these tests.
    """
    found = [
        Path(p)
        for p in [
            shutil.which("initdb") or "",
            *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        ]
        if p
    ]
    if not found:
        pytest.fail(
            "no initdb here: tests marked `postgres` need PostgreSQL: apt-get install -y postgresql"
        )
    binaries, port = found[-1].parent, free_port()
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="gear-postgres-"))
    if user:
        shutil.chown(folder, user)
    data, address = folder / "data", f"gear@127.0.0.1:{port}/postgres"
    make = [binaries / "initdb", "-D", data, "-U", "gear", "-A", "trust", "-E", "UTF8", "--no-sync"]
    serve = [
        binaries / "postgres",
        "-D",
        data,
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-k",
        folder,
        "-c",
        "fsync=off",
    ]
    try:
        subprocess.run(make, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        process = subprocess.Popen(serve, user=user, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            _wait(f"postgresql://{address}")
            yield f"postgresql+asyncpg://{address}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def count(database: str, table: str) -> int:
    """Return the number of rows of a table."""

    async def ask() -> int:
        connection = await asyncpg.connect(database.replace("+asyncpg", ""))
        try:
            return await connection.fetchval(f"select count(*) from {table}")
        finally:
            await connection.close()

    return asyncio.run(ask())


def _wait(address: str) -> None:
    async def connect() -> None:
        await (await asyncpg.connect(address)).close()

    deadline = time.monotonic() + 30
    while True:
        try:
            return asyncio.run(connect())
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
