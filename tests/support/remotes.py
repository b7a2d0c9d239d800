"""Run servers for DVC remotes on loopback: S3 by moto, SSH by asyncssh."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def s3_server(bucket: str) -> Iterator[dict[str, str]]:
    """Run an S3 server with an empty bucket; yield the options of a DVC remote on it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "endpointurl": f"http://{host}:{port}",
            "access_key_id": "test",
            "secret_access_key": "secret",
            "region": "eu-central-1",
        }
        client = boto3.client(
            "s3",
            endpoint_url=options["endpointurl"],
            aws_access_key_id="test",
            aws_secret_access_key="secret",
            region_name=options["region"],
        )
        client.create_bucket(
            Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": options["region"]}
        )
        yield options
    finally:
        server.stop()


@contextmanager
def ssh_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run an SSH server that accepts one key; yield the options of a DVC remote on it."""
    import asyncssh

    folder.mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(folder / "key")
    (folder / "key").chmod(0o600)
    key.write_public_key(folder / "authorized_keys")
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), []

    async def answer(process: Any) -> None:
        """Run a client's command in a real shell; DVC copies and moves files by commands."""
        child = await asyncio.create_subprocess_shell(
            process.command or "true", stdout=-1, stderr=-1
        )
        out, err = await child.communicate()
        process.stdout.write(out.decode())
        process.stderr.write(err.decode())
        process.exit(child.returncode or 0)

    async def listen() -> Any:
        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(folder / "authorized_keys"),
            sftp_factory=True,
            process_factory=answer,
        )
        ports.append(acceptor.get_port())
        started.set()
        return acceptor

    def serve() -> None:
        asyncio.set_event_loop(loop)
        acceptor = loop.run_until_complete(listen())
        loop.run_forever()
        acceptor.close()
        loop.run_until_complete(acceptor.wait_closed())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        assert started.wait(20)
        yield {"port": str(ports[0]), "user": "gear", "keyfile": str(folder / "key")}
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
