"""`python -m flows.server server|worker|deploy|reports|stop`: the make targets of these names.

Each is safe to repeat: a running service is reported and left alone. A user's mistake gives one
line and exit code 2. PREFECT_API_URL is the server's address; process ids and logs are in
.gear/services. Prefect's own `server start --background` is not used: it keeps no log, which would
tell why a server does not start.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from uuid import UUID

from flows.notifications import apply_automations
from flows.reports_server import LOOPBACK
from flows.wait_for_server import wait
from gear.core import exit_codes
from gear.core.errors import InputError
from gear.core.files import atomic_file
from gear.paths import LOGS, REPORTS, STATES, WORK
from gear.process import started_at
from gear.training.states import grace

SERVICES = WORK / "services"
# maximum concurrent runs over all workers of a pool; gpu: the number of GPUs
POOLS = {"cpu": None, "gpu": 1}
# maximum concurrent runs of a worker started here: monitor and dataset run at the same time
WORKER_LIMITS = {"cpu": 4, "gpu": 1}
# seconds for a run to interrupt an experiment and to report, beyond what its training needs to save
RUN_MARGIN = 60.0
PATIENCE = 180.0  # seconds for a server to answer; 6 on a quiet machine
CREDENTIALS = Path("prefect.toml")  # read by every Prefect command that runs in the checkout
TOML = """\
# Written by `make server`. Prefect's commands that run here find the server and its password in it.
# Keep it secret: whoever has the password can run code on the workers.
[api]
url = "{url}"
auth_string = "{secret}"
"""
PREFECT = [sys.executable, "-m", "prefect"]


def api() -> str:
    """Return the URL of the server's API."""
    return os.environ.setdefault("PREFECT_API_URL", "http://127.0.0.1:4200/api")


def authenticate() -> str:
    """Set the server's password for this process and its children; return where it is stored.

    It is read from PREFECT_API_AUTH_STRING, also for a server on another machine. Else that of a
    server on this machine is read from prefect.toml, which `make server` writes. Returns "" if
    there is none.

    Raises:
        InputError: if prefect.toml has no password.
    """
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        if os.environ.get(name):
            os.environ.setdefault("PREFECT_API_AUTH_STRING", os.environ[name])
            return name
    if urlparse(api()).hostname not in LOOPBACK or not CREDENTIALS.exists():
        return ""
    try:
        found = tomllib.loads(CREDENTIALS.read_text())["api"]["auth_string"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str) or ":" not in found:
        raise InputError(
            f'{CREDENTIALS}: no [api] auth_string = "user:password" in it: add one, or delete the '
            "file to have one made"
        )
    os.environ["PREFECT_API_AUTH_STRING"] = found
    return str(CREDENTIALS)


def _store_url(secret: str) -> None:
    """Store the server's URL, whose port may have changed, unless somebody else wrote the file."""
    text = CREDENTIALS.read_text()
    is_ours = text.startswith(TOML.splitlines()[0])
    if is_ours and text != TOML.format(url=api(), secret=secret):
        _write_credentials(secret)


def _write_credentials(secret: str) -> None:
    with atomic_file(CREDENTIALS) as draft:
        draft.touch(mode=0o600)
        draft.write_text(TOML.format(url=api(), secret=secret))


def reports_url() -> str:
    """Return the URL that reports/ is served at."""
    return os.environ.get("GEAR_REPORTS_URL", "http://127.0.0.1:4201").rstrip("/")


def server() -> str:
    """Start Prefect's server at PREFECT_API_URL, on loopback, with a password.

    The first call makes the password and stores it in prefect.toml, where Prefect's own commands
    find it and the server's URL. CORS forbids requests of pages from other origins.
    Its database is SQLite, or the one of PREFECT_API_DATABASE_CONNECTION_URL.
    """
    host, port = _loopback(api(), "PREFECT_API_URL")
    if wait(api(), 0.5):
        return f"server: answers already at {api()}"
    _require_free(host, port, "the server")
    if not (place := authenticate()):
        _write_credentials(f"gear:{secrets.token_urlsafe(24)}")
        place = authenticate()
    os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", os.environ["PREFECT_API_AUTH_STRING"])
    own = {f"http://{name}:{port}" for name in (host, "127.0.0.1", "localhost") if ":" not in name}
    os.environ.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", ",".join(sorted(own)))
    process_id = _start(
        "server", [*PREFECT, "server", "start", "--host", host, "--port", str(port)]
    )
    log = SERVICES / "server.log"
    answers = _wait_until(lambda: wait(api(), 0.5) or not _running("server"), PATIENCE)
    if not _running("server"):
        reason = _last_line(log.read_text(errors="replace"))
        raise InputError(f"server: it did not start: {reason} (all in {log})")
    if not answers:
        _end("server")
        raise InputError(f"server: no answer at {api()} in {PATIENCE:.0f} seconds (log {log})")
    if place == str(CREDENTIALS):  # not before: a failed start keeps the URL of another server
        _store_url(os.environ["PREFECT_API_AUTH_STRING"])
    url = api().removesuffix("/api")
    return f"server: {url} (process {process_id}, log {log}; its password is in {place})"


def worker() -> str:
    """Start one worker for each pool; create pools that do not exist."""
    _require_server()
    lines = []
    for pool, limit in POOLS.items():
        name = f"worker-{pool}"
        kind = _pool_type(pool, limit)
        if kind != "process":
            lines.append(
                f"pool {pool}: of type {kind}: start its worker where its runs belong "
                "(docs/scheduling.md)"
            )
        elif process_id := _running(name):
            lines.append(f"worker of pool {pool}: runs already (process {process_id})")
        else:
            words = ["worker", "start", "--pool", pool, "--limit", str(WORKER_LIMITS[pool])]
            process_id = _start(name, [*PREFECT, *words])
            log = SERVICES / f"{name}.log"
            lines.append(f"worker of pool {pool}: process {process_id}, log {log}")
    return "\n".join(lines)


def deploy() -> str:
    """Register the deployments of prefect.yaml.

    Active schedules stay active: Prefect itself would switch them off.
    """
    _require_server()
    for pool, limit in POOLS.items():
        _pool_type(pool, limit)
    switched_on = {key for key, (_, _, active) in _schedules().items() if active}
    environment = {"GEAR_CHECKOUT": str(Path.cwd()), **os.environ}
    command = [*PREFECT, "--no-prompt", "deploy", "--all"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:  # a part may be deployed, and its schedules off, after an error or Ctrl-C too
        lines = _switch_on(switched_on)
    if done.returncode:
        raise InputError(f"deploy: {_last_line(done.stderr.strip() or done.stdout)}")
    return "\n".join([*lines, *apply_automations()])


def reports() -> str:
    """Serve reports/ on loopback, so that artifacts can link its pages."""
    url = reports_url()
    host, port = _loopback(url, "GEAR_REPORTS_URL")
    if process_id := _running("reports"):
        return f"reports: served already by process {process_id}"
    _require_free(host, port, "reports/")
    REPORTS.mkdir(exist_ok=True)
    words = ["flows.reports_server", host, str(port)]
    process_id = _start("reports", [sys.executable, "-m", *words])
    return f"reports: {url} (process {process_id})"


def stop() -> str:
    """Stop the services of this checkout: workers, then their runs, then the rest.

    The server is needed until a run has saved its training's state and reported its end: a run that
    cannot report stays "running" and blocks its pool. For the same reason workers get SIGKILL: then
    their runs end by themselves (`exit_with_worker`). After SIGTERM a worker kills its runs.
    """
    names = sorted(file.stem for file in SERVICES.glob("*.pid"))
    workers = [name for name in names if name.startswith("worker")]
    others = [name for name in names if name not in workers]
    lines = [_stop(name, signal.SIGKILL) for name in workers]
    if others:
        _wait_for_runs()
    lines += [_stop(name) for name in others]
    return "\n".join(lines) or "nothing runs"


def _stop(name: str, signal_number: signal.Signals = signal.SIGTERM) -> str:
    return f"{name}: {'stopped' if _end(name, signal_number) else 'did not run'}"


def _wait_for_runs() -> None:
    """Wait until the flow runs of this checkout have ended, for a limited time."""
    runs = _runs()
    if not runs:
        return
    seconds = grace(STATES) + RUN_MARGIN
    numbers = ", ".join(str(process_id) for process_id in runs)
    print(
        f"waiting up to {seconds:.0f} s for runs to save and report (process {numbers})", flush=True
    )
    _wait_until(lambda: not _runs(), seconds)


def _runs() -> list[int]:
    """Return the ids of processes that a Prefect worker started and that run in this checkout."""
    runs = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            is_here = (folder / "cwd").resolve(strict=True) == Path.cwd().resolve()
        except OSError:  # gone already, or another user's
            continue
        if is_here and any(name.startswith(b"PREFECT__FLOW_RUN_ID=") for name in variables):
            runs.append(int(folder.name))
    return [process_id for process_id in runs if process_id != os.getpid()]


def _loopback(url: str, setting: str) -> tuple[str, int]:
    parts = urlparse(url)
    if parts.hostname not in LOOPBACK or not parts.port:
        raise InputError(
            f"{setting} is {url}: only http://127.0.0.1:PORT is started from here; "
            "another host starts its own"
        )
    return parts.hostname or "", parts.port


def _require_free(host: str, port: int, what: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} for {what}: {error.strerror}: end what holds it, "
                "or choose another: make ... PORT=4300"
            ) from None


def _require_server() -> None:
    authenticate()
    if not wait(api(), 3):
        raise InputError(
            f"no Prefect server at {api()}: start one with `make server`, or set PREFECT_API_URL"
        )


def _start(name: str, command: list[str]) -> int:
    """Start a background process in its own session, with a log; return its id."""
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


def _running(name: str) -> int:
    """Return the process id of a running service, else 0.

    Its start time is compared too, since process ids are reused.
    """
    try:
        process_id, started = (SERVICES / f"{name}.pid").read_text().split()
    except (OSError, ValueError):
        return 0
    return int(process_id) if started_at(int(process_id)) == started else 0


def _end(name: str, first_signal: signal.Signals = signal.SIGTERM) -> bool:
    """End a service; return whether it was running."""
    process_id = _running(name)
    if process_id:
        for signal_number, patience in ((first_signal, 30.0), (signal.SIGKILL, 3.0)):
            if _running(name):
                os.kill(process_id, signal_number)
            _wait_until(lambda: not _running(name), patience)
    (SERVICES / f"{name}.pid").unlink(missing_ok=True)
    return bool(process_id)


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not (reached := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return reached


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "no output")


def _pool_type(name: str, limit: int | None) -> str:
    """Return the type of a work pool; create it as a process pool if it does not exist."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(name).type
        except ObjectNotFound:
            pool = WorkPoolCreate(name=name, type="process", concurrency_limit=limit)
            client.create_work_pool(pool)
            return "process"


def _schedules() -> dict[tuple[str, str], tuple[UUID, UUID, bool]]:
    """Return schedules by deployment name and slug: the ids of both, and whether it is active."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {
            (deployment.name, schedule.slug or ""): (deployment.id, schedule.id, schedule.active)
            for deployment in client.read_deployments()
            for schedule in deployment.schedules
        }


def _switch_on(wanted: set[tuple[str, str]]) -> list[str]:
    """Switch these schedules on; return a line for each deployment."""
    from prefect.client.orchestration import get_client

    schedules = _schedules()
    lines = []
    with get_client(sync_client=True) as client:
        for key in wanted & schedules.keys():
            deployment_id, schedule_id, _ = schedules[key]
            client.update_deployment_schedule(deployment_id, schedule_id, active=True)
        for deployment in sorted(client.read_deployments(), key=lambda d: d.name):
            times = ", ".join(
                f"{_when(schedule.schedule)} {'on' if schedule.active else 'off'}"
                for schedule in deployment.schedules
            )
            line = f"deployed {deployment.name} to pool {deployment.work_pool_name}"
            lines.append(f"{line}; schedule {times}" if times else line)
    return lines


def _when(schedule: Any) -> str:
    """Return a schedule as text, such as `30 1 * * * UTC` or `every 300 s`."""
    if hasattr(schedule, "interval"):
        return f"every {schedule.interval.total_seconds():g} s"
    return f"{getattr(schedule, 'cron', schedule)} {getattr(schedule, 'timezone', '')}"


TARGETS = {
    "server": server,
    "worker": worker,
    "deploy": deploy,
    "reports": reports,
    "stop": stop,
}

if __name__ == "__main__":
    if "PREFECT_HOME" in os.environ:  # Prefect creates only one level
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)

    def main() -> None:
        """Run the target that the command line names."""
        target = TARGETS.get(sys.argv[1] if len(sys.argv) == 2 else "")
        if target is None:
            raise InputError(f"python -m flows.server: name one of {', '.join(TARGETS)}")
        print(target())

    raise SystemExit(exit_codes.run("", main, LOGS))
