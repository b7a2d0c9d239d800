"""Run recorded stages again in a temporary clone, without touching the checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gear.core.errors import InputError
from gear.git_project import git_root, project_prefix
from gear.paths import TRAININGS
from gear.process import Ended, run_child
from gear.runs import costs
from gear.runs.outside_inputs import partly_in_git
from gear.runs.revision import LOCK, Cache, Locked, Revision

CONFIG = "[cache]\n    dir = {folder}\n    type = symlink\n"  # contents are linked, not copied
# environment variables that stages run again do not get
OF_THE_CALLER = ("PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK")
PREFIXES_OF_THE_CALLER = ("DVC_", "GIT_", "GEAR_", "SLURM_")
FRESH = ["--single-item", "--force", "--no-run-cache", "--no-commit"]


@dataclass(frozen=True)
class Rerun:
    """A clone of one commit whose DVC reads the cache of the checkout.

    folder: The project in the clone. temporary: The folder that holds the clone.
    outside: Inputs that neither git nor DVC holds; of each the hash of what is there now.
    threads: CPU threads of the recorded run, which decide its rounding; None if unknown.
    """

    folder: Path
    temporary: Path
    revision: Revision
    outside: Mapping[str, str]
    threads: int | None

    def run(self, stage: Locked, remade: set[str], show: Callable[[str], None]) -> str:
        """Run one stage again, even if DVC has its outputs in the cache.

        Args:
            stage: The recorded stage.
            remade: Inputs to read as written by stages that ran again before; all others are
                restored as recorded.
            show: Called with each line of output.

        Returns:
            The reason of a failure; empty if there was none.
        """
        inputs = [path for path in stage.deps if path not in remade and path not in self.outside]
        in_git = [path for path in inputs if self.revision.in_git(path)]
        _git(self.folder, "checkout", "--quiet", "HEAD", "--", LOCK, *in_git)
        for path in (*inputs, *stage.outs):
            self._require_inside(path)
        if placed := [path for path in inputs if path not in in_git]:
            ended = self._dvc(["checkout", "--force", *placed], show)
            if ended.code:
                return ended.reason
        for path in stage.outs:
            _remove(self.folder / path)
        ended = self._dvc(["repro", *FRESH, stage.name], show)
        return ended.reason if ended.code else ""

    def link_outside(self, lock: Mapping[str, Locked]) -> None:
        """Link the inputs that neither git nor DVC holds, if they are still as recorded."""
        for path, found in self.outside.items():
            recorded = {stage.deps[path] for stage in lock.values() if path in stage.deps}
            if found in recorded and not Path(path).is_absolute():
                self._require_inside(path)
                link = self.folder / path
                _remove(link)  # the part of a folder that is in git
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((self.revision.root / path).resolve())

    def _require_inside(self, path: str) -> None:
        """Raise `InputError` if a link leads a path out of the clone, where nothing is written."""
        if not (self.folder / path).parent.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(
                f"{path} of {self.revision.name} lies behind a link out of the checkout: "
                "nothing of this revision is run"
            )

    def _dvc(self, words: list[str], show: Callable[[str], None]) -> Ended:
        command = [sys.executable, "-m", "dvc", words[0], "--quiet", *words[1:]]
        return run_child(command, self.folder, self._environment(), show)

    def _environment(self) -> dict[str, str]:
        """Return the environment without variables of the caller's checkout or job.

        With its GEAR_STATES a training would take up the caller's state, and with its rank wait for
        other ranks.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in OF_THE_CALLER and not name.startswith(PREFIXES_OF_THE_CALLER)
        }
        python = Path(sys.executable).parent  # makes `python` the running interpreter
        if self.threads:
            kept["OMP_NUM_THREADS"] = str(self.threads)
        return {
            **kept,
            "PATH": f"{python}{os.pathsep}{os.environ.get('PATH', '')}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.temporary / "site"),
        }


@contextmanager
def clone(revision: Revision, cache: Cache, outside: Mapping[str, str]) -> Iterator[Rerun]:
    """Clone a revision into a temporary folder (TMPDIR), which is removed afterwards.

    It is also removed after Ctrl-C and SIGTERM.

    outside: inputs that neither git nor DVC holds, with the hashes that they have now.
    """
    above = Path(tempfile.mkdtemp(prefix="gear-verify-"))
    before = signal.signal(signal.SIGTERM, _as_exit)
    try:
        checkout = above / "checkout"
        root = str(git_root(revision.root) or revision.root)
        _git(revision.root, "clone", "--quiet", "--shared", "--no-checkout", root, str(checkout))
        _git(checkout, "checkout", "--quiet", "--detach", revision.commit)
        folder = checkout / project_prefix(revision.root)
        if not (folder / ".dvc").is_dir():
            raise InputError(
                f"{revision.commit[:12]} has no .dvc folder in git: commit .dvc/config"
            )
        (folder / ".dvc/config.local").write_text(CONFIG.format(folder=cache.folder))
        lock = revision.lock()
        everything = {**outside, **partly_in_git(revision, lock, folder)}
        rerun = Rerun(folder, above, revision, everything, _threads(revision, lock))
        rerun.link_outside(lock)
        yield rerun
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(above, ignore_errors=True)


def _threads(revision: Revision, lock: Mapping[str, Locked]) -> int | None:
    """Return the threads of a recorded run's trainings; None if they are unknown."""
    for stage in TRAININGS:
        record = costs.find(revision.root, lock[stage]) if stage in lock else None
        if record and "machine" in record:
            return int(record["machine"]["threads"])
    threads = revision.provenance().get("threads")
    return None if threads is None else int(threads)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _git(folder: Path, *arguments: str) -> None:
    command = ["git", "--literal-pathspecs", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"git {arguments[0]} failed: {reason}")


def _as_exit(signal_number: int, _frame: object) -> None:
    raise SystemExit(128 + signal_number)
