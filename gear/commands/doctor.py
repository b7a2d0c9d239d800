"""`gear doctor`: check what this machine and checkout lack for a run of params.yaml."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gear import paths
from gear.commands.project import require_locked_code
from gear.core.errors import InputError, StageFailed
from gear.core.text import one_line
from gear.dvc_experiments import is_shallow_clone

LEAST_DISK = 2e9  # bytes: the quickstart with its cache and states
LEAST_MEMORY = 3e9  # bytes that the quickstart's largest stage and its loader take
OLDEST_DRIVER = 580  # for CUDA 13
CONTAINER = Path("/sys/fs/cgroup")  # inside a container, the limits and use of that container
WITHOUT_ROOT = "openmoji"  # the source that comes with the packages


class Lacks(Exception):
    """Raised if something that a run needs is missing; the message says what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `gear doctor` has no arguments."""


def run(arguments: argparse.Namespace) -> str:
    """Print a line for each check; return a line if nothing is missing.

    Raises:
        StageFailed: if something is missing.
    """
    lacking = []
    for name, check in CHECKS.items():
        try:
            print(f"ok     {name:<10}{check()}", flush=True)
        except (Lacks, InputError) as error:
            print(f"lacks  {name:<10}{error}", flush=True)
            lacking.append(name)
        except Exception as error:  # a broken installation raises errors of every kind
            print(
                f"lacks  {name:<10}{type(error).__name__}: {one_line(str(error), 200)}", flush=True
            )
            lacking.append(name)
    if lacking:
        raise StageFailed(f"{', '.join(lacking)}: see above")
    return "nothing is lacking: `dvc repro` runs the pipeline"


def python() -> str:
    """Return the version of Python."""
    return f"{platform.python_version()} in {sys.prefix}"


def packages() -> str:
    """Check installed packages against gear.lock of a project, or the pins in pyproject.toml."""
    if paths.LOCK.exists():
        require_locked_code()
        return f"as {paths.LOCK} records"
    file = Path("pyproject.toml")
    if not file.exists():
        return f"not compared: neither {paths.LOCK} nor pyproject.toml is here"
    tool = tomllib.loads(file.read_text()).get("tool", {})
    pins: dict[str, str] = tool.get("gear", {}).get("pins", {})
    other = []
    for name, wanted in pins.items():
        try:
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != wanted:
            other.append(f"{name} {found}, not {wanted}")
    if other:
        raise Lacks(f"{'; '.join(other)}: `make setup` installs what results were recorded with")
    return f"{len(pins)} packages that can change results, of the versions in pyproject.toml"


def gpus() -> str:
    """Return the GPUs that torch sees. Raises `Lacks` if torch does not see the GPU of a driver."""
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        return ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in found)
    driver = _driver()
    if driver is None:
        return "none: stages run on the CPU, which is enough for the presets tiny and quickstart"
    raise Lacks(
        f"there is one (driver {driver}), which torch {torch.__version__} does not see: it needs a "
        f"driver of {OLDEST_DRIVER} or newer and a torch with CUDA (in a checkout: delete .venv, "
        "then `make setup CPU=0`)"
    )


def _driver() -> str | None:
    """Return the version of NVIDIA's driver; None without a GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None


def free_memory() -> int:
    """Return the bytes that this process can still take: of the machine, or of its container."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        facts = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(facts["MemAvailable"].split()[0]) * 1024
    try:  # of Linux's control groups, version 2; a machine's own group has no such file
        limit = (CONTAINER / "memory.max").read_text().strip()
        used = int((CONTAINER / "memory.current").read_text())
        counts = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    if limit == "max":
        return free
    pages = int(counts.get("inactive_file", 0))  # of files, which the kernel drops if it must
    return min(free, max(0, int(limit) - used + pages))


def memory() -> str:
    """Return the number of cores and the free memory. Raises `Lacks` if that is too little."""
    free = free_memory()
    text = (
        f"{len(os.sched_getaffinity(0))} cores, {free / 1e9:.1f} GB of memory free; the quickstart "
        f"takes {LEAST_MEMORY / 1e9:.0f} GB"
    )
    if free < LEAST_MEMORY:
        raise Lacks(f"{text}: end other programs, or use a larger machine or container")
    return text


def disk() -> str:
    """Return the free space on the disk of the checkout. Raises `Lacks` if that is too little."""
    free = shutil.disk_usage(".").free
    text = f"{free / 1e9:.1f} GB free; the quickstart takes {LEAST_DISK / 1e9:.0f} GB"
    if free < LEAST_DISK:
        raise Lacks(f"{text}: delete what you do not need, or use a folder on a larger disk")
    return text


def checkout() -> str:
    """Return the commit and the default remote of DVC.

    Raises:
        Lacks: if git is not installed, or there is no DVC repository or no commit here.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    if shutil.which("git") is None:
        raise Lacks(
            "git is not installed, and runs are recorded in it: install it (Debian: `apt-get "
            "install git`)"
        )
    try:
        with Repo(".") as repo:
            remote = repo.config["core"].get("remote")
            commit: str = repo.scm.get_rev()
    except NotDvcRepoError:
        raise Lacks(
            "no DVC repository here: go to a checkout or a project, or make a project with "
            "`gear init FOLDER`"
        ) from None
    except SCMError as error:
        raise Lacks(
            f"no git commit here, and runs are recorded in git ({one_line(str(error), 80)}): "
            '`git add . && git commit -m "Start"`'
        ) from None
    text = f"commit {commit[:7]}, "
    if remote:
        text += f"DVC remote {remote}"
    else:
        text += (
            "no DVC remote, which only sharing results needs (`dvc remote add --default NAME URL`)"
        )
    if is_shallow_clone(Path()):
        text += "; a shallow clone: for `dvc exp run`, `git fetch --unshallow`"
    return text


def settings() -> str:
    """Check params.yaml, and whether its device, ranks, trackers and compiler are available.

    Returns:
        How many processes (ranks) a stage has, and on what they compute.
    """
    from gear.core.device import pick_device
    from gear.core.host_config import require_trackers
    from gear.launch import ranks_here
    from gear.params import load
    from gear.training.compiled import require_compiler

    config = load()
    require_trackers(config.host.trackers)
    device = pick_device(config.host)  # refuses host.device: cuda where there is none
    if config.host.compile:
        require_compiler()
    ranks = (config.host.ranks or 1) if config.train.portable else ranks_here(config.host)
    for name in ("tokenizer", "joint"):
        batch = getattr(config, name).batch
        if batch % ranks:
            raise Lacks(
                f"{name}.batch is {batch}, which does not divide by {ranks} ranks: change it, or "
                "host.ranks"
            )
    processes = "one process" if ranks == 1 else f"{ranks} processes (ranks)"
    on_cpu = config.train.portable or device.type == "cpu"
    where = "the CPU" if on_cpu else "a GPU" if ranks == 1 else "GPUs"
    return f"params.yaml is valid; a stage computes in {processes} on {where}"


def data() -> str:
    """Return where the images are. Raises `Lacks` if they are not there."""
    from gear.params import load

    source = load().data
    if source.source == WITHOUT_ROOT:
        return f"{source.source}, from its package"
    if not source.root or not Path(source.root).exists():
        what = f"{source.root} is not here" if source.root else "names no folder"
        raise Lacks(f"data.root: {what}: set it in params.yaml to where your images are")
    return f"{source.source} in {source.root}"


def weights() -> str:
    """Return how many weights params.yaml names. Raises `Lacks` if one is not there."""
    from gear.params import load

    named = [*_named_files(load().model_dump(mode="json"), "")]
    absent = [f"{key}: no {path}" for key, path in named if not Path(path).exists()]
    if absent:
        raise Lacks(f"{'; '.join(absent)}: download what is missing, or change its path")
    if not named:
        return "those of the packages; params.yaml names no others"
    return f"{len(named)} named in params.yaml, all here"


def _named_files(values: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted names of settings that name weights, and the paths of these."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return
    if {"path", "sha256"} <= values.keys() and values["path"]:
        yield key, values["path"]
    for name, inner in values.items():
        yield from _named_files(inner, f"{key}.{name}".lstrip("."))


CHECKS: dict[str, Callable[[], str]] = {
    "python": python,
    "packages": packages,
    "gpus": gpus,
    "memory": memory,
    "disk": disk,
    "checkout": checkout,
    "settings": settings,
    "data": data,
    "weights": weights,
}
