"""Launch the ranks of a stage on this node with torch elastic.

A stage started by torchrun, `deepspeed --no_local_rank --module gear STAGE` or srun is a rank
already and joins the others: see docs/scaling.md.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gear import paths
from gear.core.errors import InputError
from gear.core.exit_codes import FIRST_FAILURE
from gear.core.files import LockedError, exclusive_lock
from gear.core.host_config import HostConfig
from gear.process import REPEAT, kill_children

LAUNCHER = "GEAR_LAUNCHER"  # environment variable: process id of a rank's launcher
PATIENCE = 7200  # seconds that ranks may take to save after a signal to their launcher
SLURM = {  # variables that PyTorch expects, and those of srun that they are copied from
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",  # SLURM_NTASKS is set outside srun, too: in the job
}


def is_rank() -> bool:
    """Return whether a launcher started this process as a rank.

    Under srun this also sets the environment variables that PyTorch expects.

    Raises:
        InputError: if srun started several ranks without MASTER_ADDR or MASTER_PORT.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                raise InputError(
                    f"srun starts several ranks and {name} is not set: export MASTER_ADDR, the "
                    "name of the first node, and MASTER_PORT (docs/scaling.md)"
                )
        for name, source in SLURM.items():
            os.environ[name] = os.environ[source]
    return "RANK" in os.environ


def ranks_here(host: HostConfig) -> int:
    """Return the number of ranks of a stage on this node: `host.ranks`, by default one a GPU.

    Raises:
        InputError: if host.ranks exceeds the number of GPUs, unless there are none.
    """
    gpus = _gpus(host)
    if gpus and host.ranks > gpus:
        raise InputError(f"host.ranks is {host.ranks} and this node has {gpus} GPUs")
    return host.ranks or gpus or 1


def _gpus(host: HostConfig) -> int:
    if host.device == "cpu" or shutil.which("nvidia-smi") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def claim_gpus(host: HostConfig) -> None:
    """Reserve `host.ranks` free GPUs, by lock files and CUDA_VISIBLE_DEVICES.

    Simultaneous runs of a user, such as queued experiments, then do not share GPUs. The GPUs are
    released when this process ends. Does nothing if `host.ranks` is 0 or all GPUs.

    Raises:
        InputError: if too few are free.
    """
    gpus = _gpus(host)
    if not 0 < host.ranks < gpus:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(gpus)]
    folder = Path(tempfile.gettempdir()) / f"gear-gpus-{os.getuid()}"
    _require_own(folder)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(free_gpus(names, host.ranks, folder))


def _require_own(folder: Path) -> None:
    """Make a folder that only this user may write to.

    Raises:
        InputError: if another user has made it, or it is a link.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise InputError(f"{folder}: not a folder of this user alone: delete it, or set TMPDIR")


def free_gpus(names: list[str], count: int, folder: Path) -> list[str]:
    """Lock `count` of the named GPUs by files in a folder, and return their names.

    Raises:
        InputError: if too few are free.
    """
    taken: list[str] = []
    with ExitStack() as locks:
        for name in names:
            with suppress(LockedError):
                locks.enter_context(exclusive_lock(folder / f"{name}.lock", "taken"))
                taken.append(name)
            if len(taken) == count:
                _held.push(locks.pop_all())
                return taken
    raise InputError(
        f"host.ranks is {count} and {len(taken)} of {len(names)} GPUs are free: other runs hold "
        "the rest (queue fewer at a time, or lower host.ranks)"
    )


_held = ExitStack()  # locks that are held until this process ends


def run_ranks(words: list[str], ranks: int) -> None:
    """Run `gear WORDS` as several ranks and wait for all of them.

    If one fails, the others get SIGTERM, and SIGKILL after half a minute. A signal to this process
    is passed on, and the ranks may take `PATIENCE` to save; a second Ctrl-C kills them.

    Only the first rank to fail prints its error. After a crash each rank prints its own: which came
    first is not known.

    Raises:
        SystemExit: with the exit code of the rank that failed first, or 128 + the signal that ended
            it or this process.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # ranks report errors
    os.environ[LAUNCHER] = str(os.getpid())
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    first_failure = paths.LOGS.absolute() / f"first-failure-{uuid.uuid4().hex}"
    os.environ[FIRST_FAILURE] = str(first_failure)
    threads = max(1, (os.cpu_count() or 1) // ranks)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"gear-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.5,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # else a temporary folder is left
        shutdown_timeout=PATIENCE,
        signals_to_handle="",  # see `_signals_passed_on`
    )
    print(f"{words[0]}: {ranks} ranks", flush=True)
    try:
        with _signals_passed_on():
            elastic_launch(config, sys.executable)("-m", "gear", *words)
    except SignalException as error:
        raise SystemExit(128 + int(error.sigval)) from None
    except ChildFailedError as error:
        if (reported := _exit_code(first_failure)) is not None:
            raise SystemExit(reported) from None
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if code < 0:
            name = signal.Signals(-code).name
            print(f"gear {words[0]}: rank {rank} of {ranks} was ended by {name}", file=sys.stderr)
            raise SystemExit(128 - code) from None
        if 0 not in error.failures:  # rank zero has reported its own error
            print(f"gear {words[0]}: rank {rank} of {ranks} failed first", file=sys.stderr)
        raise SystemExit(code) from None
    finally:
        del os.environ[FIRST_FAILURE]
        first_failure.unlink(missing_ok=True)


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Raise PyTorch's `SignalException` on the first signal: the launcher then passes it on.

    Later signals are ignored while the ranks save, but a second Ctrl-C kills them and ends this
    process. A SIGHUP that is ignored (nohup) stays so, in the ranks as well.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    first = 0.0

    def handle(number: int, _frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if not first:
            first = now
            raise SignalException(f"signal {number}", sigval=signal.Signals(number))
        if number == signal.SIGINT and now - first > REPEAT:
            kill_children()
            raise SystemExit(128 + number)

    handled = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(first_failure: Path) -> int | None:
    """Return the exit code of the rank that reported its failure first; None if none did."""
    try:
        return int(first_failure.read_text())
    except (FileNotFoundError, ValueError):
        return None
