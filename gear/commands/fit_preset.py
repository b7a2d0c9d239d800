"""Fit a preset to a set of images and to a machine.

A run should take about a quarter of an hour on a machine without a GPU. Sizes are those of the
presets `quickstart` (32 px) and `demo` (64 px), with steps in proportion to the cores.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

MINUTES = 15.0  # of a run without a GPU
CORE_MINUTES = {"quickstart": 20.0, "demo": 140.0}  # of a run of these presets on CPUs
MOST_CORES = 16  # more cores do not speed up models this small
SCALES = (0.5, 4.0)  # minimum and maximum, times the preset's steps
GPU_SCALE = 2.0
FEATURES_A_CORE = 10_000  # images whose teacher features take three minutes on a core
SIZES = (16, 32, 64, 128)  # pixels
MULTIPLIERS = {16: [1, 2], 32: [1, 2, 2], 64: [1, 2, 2, 4], 128: [1, 1, 2, 4]}
LARGE_SIDE_CORES = 8  # with fewer, 64 px would take hours
FEW, MANY = 500, 10_000  # images
LEAST_IMAGES = 24  # minimum: a fifth is held out, and nearest neighbours are searched in it
MOST_VALIDATION = 5_000
UNKNOWN = 1_500  # images assumed for a dataset that is not here, as in quickstart


@dataclass(frozen=True)
class Machine:
    """Resources of a run: CPU cores, and whether torch sees a GPU."""

    cores: int
    has_gpu: bool


def this_machine() -> Machine:
    """Return the resources that this process may use."""
    import torch

    return Machine(len(os.sched_getaffinity(0)), torch.cuda.is_available())


def fit(images: int, side: int, machine: Machine) -> tuple[str, dict[str, Any]]:
    """Return the name of a preset and the values to override in it.

    Args:
        images: Number of images.
        side: Their typical shorter side, pixels.
        machine: Resources of the run.

    >>> preset, values = fit(1500, 100, Machine(cores=2, has_gpu=False))
    >>> preset, values["data"]["size"], values["tokenizer"]["codes"], values["joint"]["steps"]
    ('quickstart', 32, 512, 300)
    """
    size = _size(images, side, machine)
    preset = "demo" if size >= 64 else "quickstart"
    scale = GPU_SCALE if machine.has_gpu else MINUTES * _cores(machine) / CORE_MINUTES[preset]
    scale = min(max(scale, SCALES[0]), SCALES[1])
    values = {
        "host": {"workers": min(machine.cores, 16)},
        "data": {"size": size, **_shares(images, machine)},
        "tokenizer": {"codes": _codes(images, machine), "multipliers": MULTIPLIERS[size]},
        "generator": {},
        "joint": {},
        "sample": {"n": 448 if images < FEW else 1344},
    }
    _scale_steps(values, preset, scale)
    _set_batches(values, preset, images, machine)
    if images < FEW:
        values["generator"] |= {"layers": 4, "heads": 4, "width": 128, "tap": 2}
    if machine.has_gpu and images >= MANY:
        values["generator"] |= {"layers": 12, "heads": 8, "width": 512, "tap": 4}
        values["tokenizer"] |= {"base": 64, "blocks": 2}
    return preset, values


def _size(images: int, side: int, machine: Machine) -> int:
    """Return the largest size that enlarges no typical image and that the machine can train."""
    if machine.has_gpu:
        most = 128 if images >= MANY else 64
    else:
        most = 64 if machine.cores >= LARGE_SIDE_CORES else 32
    return max(size for size in SIZES if size == SIZES[0] or size <= min(side, most))


def _cores(machine: Machine) -> int:
    return min(machine.cores, MOST_CORES)


def _codes(images: int, machine: Machine) -> int:
    """Return the codebook size, a power of two: about one code for three images."""
    most = 4096 if machine.has_gpu else 1024
    return min(max(128, 1 << round(math.log2(images / 3))), most)


def _shares(images: int, machine: Machine) -> dict[str, Any]:
    """Return the share of images to hold out, and for CPUs a limit on their number."""
    most = FEATURES_A_CORE * _cores(machine)
    limit = most if not machine.has_gpu and images > most else 0
    if images < FEW:
        return {"val_share": 0.2, "limit": 0}
    return {"val_share": round(min(0.1, MOST_VALIDATION / (limit or images)), 4), "limit": limit}


def _scale_steps(values: dict[str, Any], preset: str, scale: float) -> None:
    from gear.params import load_preset

    base = load_preset(preset)
    for section in ("tokenizer", "joint", "generator"):
        values[section]["steps"] = _tens(getattr(base, section).steps * scale)
    values["joint"]["fd_every"] = _tens(base.joint.fd_every * scale)


def _set_batches(values: dict[str, Any], preset: str, images: int, machine: Machine) -> None:
    """Set batches to the preset's, twice that on a GPU, and at most half of the training images."""
    from gear.params import load_preset

    base = load_preset(preset)
    training = images * (1 - values["data"]["val_share"])
    most = 1 << int(math.log2(training / 2))
    for section in ("tokenizer", "joint"):
        wanted = getattr(base, section).batch * (2 if machine.has_gpu else 1)
        values[section]["batch"] = min(wanted, most)


def _tens(steps: float) -> int:
    return max(10, round(steps / 10) * 10)
