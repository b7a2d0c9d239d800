"""Measure ingest and validation of many rows: rows a second and peak memory.

    python -m benchmarks.rows [--rows 1000000] [--workers 2] [--size 32]

Synthetic pictures with captions in tar archives of 10,000, in a temporary folder. Memory is the
proportional set size of the command and its decoding processes, read twice a second.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from gear import params

ARCHIVE = 10_000  # rows
CLASSES = 100
MIB = 2**20


def write_source(folder: Path, rows: int, size: int) -> None:
    """Write archives of pictures, all different, with a class and a caption."""
    random = np.random.default_rng(0)
    for start in range(0, rows, ARCHIVE):
        count = min(ARCHIVE, rows - start)
        coarse = random.normal(0, 55, (count, 4, 4, 3)) + random.normal(128, 35, (count, 1, 1, 1))
        pictures = coarse.clip(0, 255).astype(np.uint8)
        with tarfile.open(folder / f"{start // ARCHIVE:05d}.tar", "w") as archive:
            for number, picture in enumerate(pictures, start):
                buffer = io.BytesIO()
                enlarged = picture.repeat(size // 4, axis=0).repeat(size // 4, axis=1)
                Image.fromarray(enlarged).save(buffer, format="PNG", compress_level=1)
                label = f"class {number % CLASSES:02d}"
                facts = {"class": label, "caption": f"picture number {number} of {label}"}
                for ending, content in (
                    ("png", buffer.getvalue()),
                    ("json", json.dumps(facts).encode()),
                ):
                    entry = tarfile.TarInfo(f"{number:08d}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return its seconds and the peak memory of it and its children, MiB."""
    log = (folder / "log").open("a")
    began = time.monotonic()
    child = psutil.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    most = 0.0
    while child.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = [child, *child.children(recursive=True)]
            most = max(most, sum(memory(process) for process in family) / MIB)
        time.sleep(0.5)
    if child.returncode:
        sys.exit(
            f"{' '.join(command)}: exit code {child.returncode}: {(folder / 'log').read_text()}"
        )
    return time.monotonic() - began, most


def memory(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        found: int = process.memory_full_info().pss
        return found
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, source = Path(scratch), Path(scratch) / "source"
        source.mkdir()
        write_source(source, options.rows, options.size)
        values = params.load_preset("tiny").model_dump(mode="json")
        values["data"] |= {"source": "webdataset", "root": str(source), "size": options.size}
        values["data"] |= {"limit": 0, "val_share": 0.04}
        values["host"] |= {"workers": options.workers}
        (folder / "params.yaml").write_text(params.to_yaml(params.from_values(values, "benchmark")))
        print("| command | rows | rows/s | seconds | memory, MiB |\n|---|---|---|---|---|")
        for stage in ("ingest", "validate"):
            seconds, most = measure([sys.executable, "-m", "gear", stage], folder)
            print(
                f"| {stage} | {options.rows} | {options.rows / seconds:.0f} | {seconds:.0f} "
                f"| {most:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
