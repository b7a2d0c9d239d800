"""Describe the CPU and GPUs of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

# instruction sets by which matrix libraries select kernels, and so how they round
INSTRUCTION_SETS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
)


def hardware() -> str:
    """Return the name, family, model and number of cores of the CPU, as one string.

    The name alone is not enough: cloud machines often report only that of the product line.
    """
    facts = _cpuinfo()
    name = facts.get("model name", platform.machine())
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    model = f" ({', '.join(numbers)})" if numbers else ""
    return f"{name}{model}, {os.cpu_count()} cores"


def instruction_sets() -> list[str]:
    """Return the instruction sets of the CPU that affect how matrix libraries round."""
    flags = set(_cpuinfo().get("flags", "").split())
    return [name for name in INSTRUCTION_SETS if name in flags]


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo; empty without that file."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def hardware_class() -> str:
    """Return the hardware on which bitwise equality of results depends, as one string.

    It names the CPU with its model and instruction sets, the number of cores, and the GPUs.
    """
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            gpus = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return ", ".join([hardware(), *filter(None, [" ".join(instruction_sets())]), *gpus])
