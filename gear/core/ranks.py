"""The processes that do a stage's work together, and how they share it.

Imports torch only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
    """This process among the ranks of a stage; alone by default.

    rank: in [0, size).
    """

    rank: int = 0
    size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def map(self, compute: Callable[[PartT], ResultT], parts: Iterable[PartT]) -> Iterator[ResultT]:
        """Compute each part on one rank; yield all results, in order, on every rank.

        A part is computed whole by one rank, so the results do not depend on the number of ranks.
        All ranks have to call this alike and read to the end. A round of results is held at a time.

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
            dist.all_gather_object(results, own, group=_on_cpu())
            yield from results[: len(chunk)]

    def replace_folder(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Fill a folder and put it in place, as `gear.core.files.replace_folder` does.

        All ranks call `fill`, to share its work; only rank zero may write in there.
        """
        if self.is_rank_zero:
            replace_folder(folder, fill)
        else:
            fill(folder)


ALONE = Ranks()


def join_ranks(host: HostConfig) -> Ranks:
    """Join the ranks that a launcher started, for work without gradients; alone without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=host.rank_timeout))
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave_ranks() -> None:
    """Leave the other ranks; without this, threads that still wait abort the process at its end."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@cache
def _on_cpu() -> Any:
    """Return a process group for results in CPU memory."""
    import torch.distributed as dist

    return dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
