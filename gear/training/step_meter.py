"""Where a training's time goes, and how much of the device it uses: for logs alone.

Nothing here changes a result or is part of one.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

GIB = 2**30
# none is called step: DVCLive names a column after the end of a name, beside the column `step`
PHASES = ("data", "compute", "measure", "save")
# Dense bf16 peak in FLOP/s, by the start of the name that torch gives, from the data sheets
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}

Item = TypeVar("Item")
Row = dict[str, float]


class StepMeter:
    """Seconds a step by phase, peak memory, and FLOP utilisation, of this rank.

    A step ends with a look at its losses on the host, so its seconds are those of the device too.
    """

    def __init__(self, device: torch.device, peak: float | None, *, recomputes: bool) -> None:
        """Take what is measured.

        Args:
            device: Device of the training.
            peak: FLOP/s that the device can do at most; None if that is not known.
            recomputes: Whether the backward pass computes activations again.
        """
        self.device, self.peak, self.recomputes = device, peak, recomputes
        self.flops: float | None = None  # of a step of this rank
        self.kind: frozenset[str] | None = None  # names of the losses of the last step
        self.count_next = False
        self._restart()

    def _restart(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.steps = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the body to a phase."""
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items; the time that they are waited for is that of the phase `data`."""
        iterator = iter(items)
        while True:
            with self.phase("data"):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step. Its FLOPs are counted if it is the first with these losses."""
        counter = FlopCounter() if self.count_next else None
        with self.phase("compute"), counter or nullcontext():
            yield
        self.steps += 1
        if counter is not None:
            self.flops, self.count_next = counter.total, False

    def note_losses(self, names: Iterable[str]) -> None:
        """Tell what a step trained on: with other losses the next step's FLOPs are counted."""
        if self.peak and self.kind != frozenset(names):
            self.kind, self.count_next = frozenset(names), True

    def read(self, engines: dict[str, Any]) -> Row:
        """Return what is logged beside the curve, over the steps since the last call."""
        row: Row = {}
        for name, engine in engines.items():
            row[f"lr/{name}"] = float(engine.optimizer.param_groups[0]["lr"])
            norm = engine.get_global_grad_norm()
            if norm is not None:
                row[f"grad_norm/{name}"] = float(norm)
        row["memory/peak_gib"] = peak_memory(self.device) / GIB
        if self.steps:
            row |= {f"time/{name}": s / self.steps for name, s in self.seconds.items()}
            busy = self.seconds["data"] + self.seconds["compute"]
            if self.peak and self.flops is not None and math.isfinite(self.flops):
                name = "hfu" if self.recomputes else "mfu"
                row[name] = self.flops * self.steps / busy / self.peak
        self._restart()
        return row


class FlopCounter(TorchDispatchMode):
    """Count FLOPs of matrix products, convolutions and attention, forward and backward.

    >>> with FlopCounter() as counter:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> counter.total
    48.0
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator as it is, and add its FLOPs."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            try:
                self.total += count(*args, **(kwargs or {}), out_val=out)
            except Exception:  # of shapes that torch cannot count: the step itself is fine
                self.total = math.nan
        return out


def peak_flops(device: torch.device, *, bf16: bool) -> float | None:
    """Return a GPU's dense peak in bf16, FLOP/s; None if it is not known, or not computed with."""
    if device.type != "cuda" or not bf16:
        return None
    name = torch.cuda.get_device_name(device)
    starts = [
        start for start in PEAKS if name == start or name.startswith((f"{start}-", f"{start} "))
    ]
    return None if "MIG" in name or not starts else PEAKS[max(starts, key=len)]


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that torch held on a GPU, or this process in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
