"""The processor and GPUs of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path


def hardware() -> str:
    """Processor and cores."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def hardware_class() -> str:
    """Processor, cores and GPUs: what has to be the same for results to be the same to the bit."""
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        gpus = (
            [line.strip() for line in done.stdout.splitlines() if line.strip()]
            if done.returncode == 0
            else []
        )
    return ", ".join([hardware(), *gpus])
