"""`python -m flows.services server|worker|deploy|reports|stop`: what the make targets of these names do.

Each is safe to repeat: what runs already is said and left alone. The user's mistakes give one line and exit code 2.
PREFECT_API_URL says where the server is to listen; process ids and logs lie in .gear/services.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

from flows.wait import wait
from gear.core.errors import InputError
from gear.paths import REPORTS, WORK
from gear.process import started_at

SERVICES = WORK / "services"
POOLS = {
    "cpu": None,
    "gpu": 1,
}  # runs at a time over all workers of a pool; gpu: the number of GPUs
RUNS = {
    "cpu": 4,
    "gpu": 1,
}  # at a time by the worker started here: the monitor runs beside the check of a data version
PATIENCE = 180.0  # seconds for a server to answer; 6 on a quiet machine
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def api() -> str:
    """The server's address."""
    return os.environ.setdefault("PREFECT_API_URL", "http://127.0.0.1:4200/api")


def reports_url() -> str:
    """Where reports/ is served."""
    return os.environ.get("GEAR_REPORTS_URL", "http://127.0.0.1:4201").rstrip("/")


def server() -> str:
    """Start Prefect's server where PREFECT_API_URL says, on loopback; SQLite, or the database of PREFECT_API_DATABASE_CONNECTION_URL."""
    host, port = _loopback(api(), "PREFECT_API_URL")
    if wait(api(), 0.5):
        return f"server: answers already at {api()}"
    _require_free(host, port, "the server")
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        host,
        "--port",
        str(port),
    ]
    number = _start("server", command)
    answers = _until(lambda: wait(api(), 0.5) or not _runs("server"), PATIENCE)
    if not _runs("server"):
        raise InputError(
            f"server: it did not start: {_last_line('server')} (all in {SERVICES / 'server.log'})"
        )
    if not answers:
        _end("server")
        raise InputError(
            f"server: no answer at {api()} in {PATIENCE:.0f} seconds (log {SERVICES / 'server.log'})"
        )
    return f"server: {api().removesuffix('/api')} (process {number}, log {SERVICES / 'server.log'})"


def worker() -> str:
    """Start one worker a pool; pools are made where they are not there."""
    _require_server()
    said = []
    for pool, limit in POOLS.items():
        kind = _pool(pool, limit)
        if kind != "process":
            said.append(
                f"pool {pool}: of type {kind}: start its worker where its runs belong (docs/scheduling.md)"
            )
        elif number := _runs(f"worker-{pool}"):
            said.append(f"worker of pool {pool}: runs already (process {number})")
        else:
            command = [
                sys.executable,
                "-m",
                "prefect",
                "worker",
                "start",
                "--pool",
                pool,
                "--limit",
                str(RUNS[pool]),
            ]
            number = _start(f"worker-{pool}", command)
            said.append(
                f"worker of pool {pool}: process {number}, log {SERVICES / f'worker-{pool}.log'}"
            )
    return "\n".join(said)


def deploy() -> str:
    """Register prefect.yaml's deployments. Schedules that are switched on stay so: Prefect itself would switch them off again."""
    _require_server()
    for pool, limit in POOLS.items():
        _pool(pool, limit)
    before = {key for key, (_, _, active) in _schedules().items() if active}
    env = {"GEAR_CHECKOUT": str(Path.cwd()), **os.environ}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"deploy: {' '.join((done.stderr or done.stdout).split())[-600:]}")
    return "\n".join(_switch_on(before))


def reports() -> str:
    """Serve reports/ on loopback, so that artifacts can link its pages."""
    url = reports_url()
    host, port = _loopback(url, "GEAR_REPORTS_URL")
    if number := _runs("reports"):
        return f"reports: served already by process {number}"
    _require_free(host, port, "reports/")
    REPORTS.mkdir(exist_ok=True)
    number = _start(
        "reports",
        [
            sys.executable,
            "-m",
            "http.server",
            "--bind",
            host,
            "--directory",
            str(REPORTS),
            str(port),
        ],
    )
    return f"reports: {url} (process {number})"


def stop() -> str:
    """End what this checkout started: workers first, so that their runs are told, then the rest."""
    names = sorted(
        (file.stem for file in SERVICES.glob("*.pid")),
        key=lambda name: not name.startswith("worker"),
    )
    return (
        "\n".join(f"{name}: {'stopped' if _end(name) else 'did not run'}" for name in names)
        or "nothing runs"
    )


def _loopback(url: str, setting: str) -> tuple[str, int]:
    parts = urlparse(url)
    if parts.hostname not in LOOPBACK or not parts.port:
        raise InputError(
            f"{setting} is {url}: only http://127.0.0.1:PORT is started from here; another host starts its own"
        )
    return parts.hostname or "", parts.port


def _require_free(host: str, port: int, what: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} for {what}: {error.strerror}: end what holds it, or choose another: make ... PORT=4300"
            ) from None


def _require_server() -> None:
    if not wait(api(), 3):
        raise InputError(
            f"no Prefect server at {api()}: start one with `make server`, or set PREFECT_API_URL"
        )


def _start(name: str, command: list[str]) -> int:
    """A background process in a session of its own, its output in a log, its id in a file."""
    SERVICES.mkdir(parents=True, exist_ok=True)
    with (SERVICES / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (SERVICES / f"{name}.pid").write_text(f"{process.pid} {started_at(process.pid)}")
    return process.pid


def _runs(name: str) -> int:
    """The process id of a service that runs, else 0. When it was born is compared too: ids are used again."""
    try:
        number, born = (SERVICES / f"{name}.pid").read_text().split()
    except (OSError, ValueError):
        return 0
    return int(number) if started_at(int(number)) == born else 0


def _end(name: str) -> bool:
    number = _runs(name)
    if number:
        for how, patience in ((signal.SIGTERM, 30.0), (signal.SIGKILL, 3.0)):
            if _runs(name):
                os.kill(number, how)
            _until(lambda: not _runs(name), patience)
    (SERVICES / f"{name}.pid").unlink(missing_ok=True)
    return bool(number)


def _until(true: object, seconds: float) -> bool:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not (reached := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(reached)


def _last_line(name: str) -> str:
    lines = [
        line.strip()
        for line in (SERVICES / f"{name}.log").read_text(errors="replace").splitlines()
        if line.strip()
    ]
    return lines[-1][:300] if lines else "no output"


def _pool(name: str, limit: int | None) -> str:
    """The type of a work pool, made as a process pool where it is not there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(name).type
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(name=name, type="process", concurrency_limit=limit)
            )
            return "process"


def _schedules() -> dict[tuple[str, str], tuple[object, object, bool]]:
    """Every schedule by its deployment's name and its slug: the ids of both, and whether it is on."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {
            (deployment.name, schedule.slug or ""): (deployment.id, schedule.id, schedule.active)
            for deployment in client.read_deployments()
            for schedule in deployment.schedules
        }


def _switch_on(wanted: set[tuple[str, str]]) -> list[str]:
    """Switch these schedules on; returns a line a deployment."""
    from prefect.client.orchestration import get_client

    found = _schedules()
    with get_client(sync_client=True) as client:
        for key in wanted & found.keys():
            client.update_deployment_schedule(found[key][0], found[key][1], active=True)  # type: ignore[arg-type]
        lines = []
        for deployment in sorted(client.read_deployments(), key=lambda d: d.name):
            times = ", ".join(
                f"{getattr(s.schedule, 'cron', s.schedule)} {getattr(s.schedule, 'timezone', '')} {'on' if s.active else 'off'}"
                for s in deployment.schedules
            )
            lines.append(
                f"deployed {deployment.name} to pool {deployment.work_pool_name}"
                + (f"; schedule {times}" if times else "")
            )
    return lines


if __name__ == "__main__":
    if "PREFECT_HOME" in os.environ:
        Path(os.environ["PREFECT_HOME"]).mkdir(
            parents=True, exist_ok=True
        )  # Prefect makes one level only, and warns
    try:
        print(
            {
                "server": server,
                "worker": worker,
                "deploy": deploy,
                "reports": reports,
                "stop": stop,
            }[sys.argv[1]]()
        )
    except InputError as mistake:
        print(mistake, file=sys.stderr)
        raise SystemExit(2) from None
