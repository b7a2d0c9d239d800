"""Start and end `dvc exp run` safely: whole history, all images, no signal while it prepares.

Imports no torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from gear.core.errors import InputError
from gear.git_project import ignored_files, tracked_files
from gear.process import end_group

PREPARED = 30.0  # seconds to wait for DVC, at most
REPOSITORY_LOCK = Path(".dvc/tmp/lock")


def is_shallow_clone(root: Path) -> bool:
    """Return whether a checkout is a shallow clone, as of `git clone --depth`."""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
    return answer.strip() == "true"


def refuse_shallow_clone(root: Path) -> None:
    """Raise an error in a shallow clone, where DVC runs an experiment and then loses it.

    Raises:
        InputError: if the checkout is a shallow clone.
    """
    if is_shallow_clone(root):
        raise InputError(
            f"{root}: in a shallow clone DVC keeps no experiment: run `git fetch --unshallow`"
        )


def copied_images(root: Path, images: str) -> list[str]:
    """Return options of `dvc exp run --temp` that copy the images into the experiment's folder.

    DVC fills that folder with what git and DVC hold. Images in the checkout that neither holds,
    because git ignores them, would be missing.

    Args:
        root: The checkout.
        images: The setting data.root.

    Raises:
        InputError: if git holds some of the images and ignores others: DVC copies no part of a
            folder, and a run on some of the images would not be noticed.
    """
    from dvc.api import DVCFileSystem

    parts = PurePosixPath(images).parts
    if not parts or parts[0] == "/" or ".." in parts or not (root / images).exists():
        return []
    if tracked_files(root, images):
        ignored = [name for name in ignored_files(root, images) if "/." not in f"/{name}"]
        if ignored:
            raise InputError(
                f"data.root: git ignores {len(ignored)} files of {images}, such as {ignored[0]}, "
                "and an experiment in a folder of its own has only what is in git: name the images "
                "by their absolute path"
            )
        return []
    return [] if DVCFileSystem(str(root)).isdvc(images) else [f"--copy-paths={images}"]


@contextmanager
def nothing_prepared(root: Path) -> Iterator[None]:
    """Hold DVC's lock of a checkout, so that no experiment is being prepared in it.

    `dvc exp run` prepares an experiment in the checkout: for a second or two, params.yaml has the
    experiment's settings and HEAD is detached. A signal in between would leave it like that, and a
    reader of params.yaml would take them for the checkout's. If the lock cannot be taken within
    `PREPARED` seconds, the body runs without it.
    """
    from dvc.lock import LockError, make_lock

    lock = make_lock(str(root / REPOSITORY_LOCK))
    deadline = time.monotonic() + PREPARED
    held = False
    while not held and (root / REPOSITORY_LOCK).parent.is_dir() and time.monotonic() < deadline:
        try:
            lock.lock()
            held = True
        except LockError:
            continue
    try:
        yield
    finally:
        if held:
            lock.unlock()


def end_experiments(children: Mapping[subprocess.Popen[str], float], root: Path) -> None:
    """Interrupt experiments of a checkout like Ctrl-C, so that DVC cleans up its temporary files.

    A child that is preparing its experiment is interrupted after that.

    Args:
        children: The processes of `dvc exp run --temp`, each the leader of a process group, and the
            seconds after which the rest of its group is killed.
        root: The checkout.
    """
    running = [child for child in children if child.poll() is None]
    if running:
        with nothing_prepared(root):
            for child in running:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGINT)
    for child, grace in children.items():
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace)
        end_group(child)
