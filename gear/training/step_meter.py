"""Measure time by phase, memory and FLOP utilization of a training, for logs only.

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
# none is called step: DVCLive names a column by the last part of a name, and `step` is a column
PHASES = ("data", "compute", "measure", "save")
# Dense bf16 peak in FLOP/s from the data sheets, by the device name in torch
PEAKS = {
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}

Item = TypeVar("Item")
Row = dict[str, float]


class StepMeter:
    """Measures seconds a step by phase, peak memory and FLOP utilization of this rank.

    A GPU works on after the host has launched a step. Where the host reads a result of it, it waits
    for the GPU: such reads belong to the phase `compute`, so that the seconds up to a logged step
    hold all work of the GPU.
    """

    def __init__(self, device: torch.device, peak: float | None, *, recomputes: bool) -> None:
        """Create a meter.

        Args:
            device: Device of the training.
            peak: Peak FLOP/s of the device; None if it is not known.
            recomputes: Whether the backward pass recomputes activations.
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
        """Add the seconds of the `with` block to a phase."""
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items; add the time spent waiting for them to the phase `data`."""
        iterator = iter(items)
        while True:
            with self.phase("data"):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step. Its FLOPs are counted if the step before it had new losses."""
        counter = FlopCounter() if self.count_next else None
        with self.phase("compute"), counter or nullcontext():
            yield
        self.steps += 1
        if counter is not None:
            self.flops, self.count_next = counter.total, False

    def note_losses(self, names: Iterable[str]) -> None:
        """Note the names of a step's losses: if they are new, count the FLOPs of the next step."""
        if self.peak and self.kind != frozenset(names):
            self.kind, self.count_next = frozenset(names), True

    def read(self, engines: dict[str, Any]) -> Row:
        """Return rates, norms, memory and times to log, over the steps since the last call."""
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
        """Run an operator unchanged, and add its FLOPs."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            try:
                self.total += count(*args, **(kwargs or {}), out_val=out)
            except Exception:  # torch cannot count these shapes: the step itself is fine
                self.total = math.nan
        return out


def peak_flops(device: torch.device, *, bf16: bool) -> float | None:
    """Return a GPU's dense bf16 peak in FLOP/s; None if it is not known or bf16 is not used."""
    if device.type != "cuda" or not bf16:
        return None
    return PEAKS.get(torch.cuda.get_device_name(device))


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated by torch on a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
