"""Split the work of a stage among processes (ranks).

torch is imported only if there are several ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from gear.core.files import replace_folder
from gear.core.host_config import HostConfig

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, in [0, size), and the number of ranks; one by default.

    timeout: how long a rank waits for results of the others in `map`; None for PyTorch's default.
    """

    rank: int = 0
    size: int = 1
    timeout: timedelta | None = field(default=None, kw_only=True)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def map(self, compute: Callable[[PartT], ResultT], parts: Iterable[PartT]) -> Iterator[ResultT]:
        """Compute each part on one rank; yield all results, in order, on every rank.

        A part is computed by a single rank, so results do not depend on the number of ranks. This
        is a collective operation: all ranks must pass the same parts and consume all results. At
        most `size` results are in memory at a time.

        >>> list(Ranks().map(len, ["a", "bc"]))
        [1, 2]
        """
        if self.size == 1:
            yield from map(compute, parts)
            return
        import torch.distributed as dist

        remaining = iter(parts)
        while chunk := list(islice(remaining, self.size)):
            own = compute(chunk[self.rank]) if self.rank < len(chunk) else None
            results: list[Any] = [None] * self.size
            dist.all_gather_object(results, own, group=_on_cpu(self.timeout))
            yield from results[: len(chunk)]

    def replace_folder(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Replace a folder as `gear.core.files.replace_folder` does, on several ranks.

        All ranks call `fill`, to share its work, but only rank zero may write to the folder.
        """
        if self.is_rank_zero:
            replace_folder(folder, fill)
        else:
            fill(folder)


ALONE = Ranks()


def join_ranks(host: HostConfig) -> Ranks:
    """Join the ranks of a launcher, for work without gradients; return `ALONE` without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    import torch.distributed as dist

    timeout = timedelta(seconds=host.rank_timeout)
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timeout)
    return Ranks(dist.get_rank(), dist.get_world_size(), timeout=timeout)


def leave_ranks() -> None:
    """Destroy the process group, whose waiting threads would abort the process when it exits."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@cache
def _on_cpu(timeout: timedelta | None) -> Any:
    """Return a gloo process group, for results in CPU memory."""
    import torch.distributed as dist

    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    return dist.new_group(backend="gloo", timeout=timeout)
