"""Damage files of saved states and resume: `python -m tests.distributed.damage_matrix`.

Every training of the tiny preset is run to its end. Then each file of its newest state, and each
file next to the states, is truncated, changed in one bit, emptied or removed, one at a time, and
the training is started again. It must either resume from the previous state with one warning and
end with bitwise equal weights, or say in one line what is wrong. If both states are damaged, it
must exit with one line and train nothing. The exit code is 1 if any case fails.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.distributed.kill_matrix import STAGES, difference, prepare
from tests.support.commands import run_gear

Damage = Callable[[Path], object]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES: tuple[Damage, ...] = (truncate, flip, empty, Path.unlink)
BESIDE = ("latest", "description.json", "healthy", "settings.json")  # files next to the states


def newest(folder: Path) -> list[Path]:
    """Return the files of a training's newest state, and those next to the states."""
    state = folder / (folder / "latest").read_text()
    files = [file for file in sorted(state.rglob("*")) if file.is_file()]
    return [*files, *(folder / name for name in BESIDE if (folder / name).exists())]


def outcome(cwd: Path, whole: Path, stage: str) -> str:
    """Run a stage and return how it ended."""
    done = run_gear(cwd, stage)
    errors = done.stderr.splitlines()
    told = [line for line in errors if line.startswith(f"gear {stage}: ")]
    if done.returncode == 2 and len(told) == 1 and not (cwd / "data/models" / stage).exists():
        return "one line"
    if done.returncode or difference(cwd, whole, stage) > 0:
        return f"WRONG ({done.returncode}, {errors[-1:]})"
    warnings = [line for line in errors if "going on from" in line]
    resumed = [line for line in errors if line.startswith("resuming after step")]
    if warnings:
        return "from the state before, one warning" if len(warnings) == 1 else "WRONG (warnings)"
    return "resumed" if resumed else "started anew"


def main() -> int:
    wrong = 0
    print("| training | damaged | cases | ended |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared"
        prepare(prepared, gan_from=0)
        for stage in STAGES:
            for which in ("newest state", "both states"):
                ends: Counter[str] = Counter()
                (folder,) = (prepared / ".gear" / stage).glob("*/latest")
                for file in newest(folder.parent):
                    within = file.relative_to(prepared)
                    if which == "both states" and file.name in BESIDE:
                        continue
                    for spoil in DAMAGES:
                        cwd = Path(scratch) / "damaged"
                        shutil.copytree(prepared, cwd)
                        shutil.rmtree(cwd / "data/models" / stage)
                        spoil(cwd / within)
                        if which == "both states":
                            (older,) = (cwd / within).parents[len(within.parts) - 4].glob("older/*")
                            spoil(older / Path(*within.parts[4:]))
                        end = outcome(cwd, prepared, stage)
                        wrong += end.startswith("WRONG")
                        ends[end] += 1
                        shutil.rmtree(cwd)
                        if which == "both states":
                            break  # one kind per file is enough: the newest state had all
                for end, count in sorted(ends.items()):
                    print(f"| {stage} | {which} | {count} | {end} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
