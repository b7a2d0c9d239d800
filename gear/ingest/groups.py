"""Group pictures that have to be on the same side of the split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gear.data.near_twins import ReadImages, near_twin_groups


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture without its pixels, which lie in the spool at `place`.

    sha256: of the encoded image at training size.
    """

    place: int
    key: str
    concept: str
    category: str
    caption: str
    sha256: str
    thumbnail: np.ndarray


def group_entries(entries: Sequence[Entry], read: ReadImages) -> np.ndarray:
    """Return the number of each entry's group, (N,) int64.

    Entries of one concept are in one group, and so are equal images and near-twins. A group holds
    everything that is linked, so A and C are together if B is a near-twin of both.

    Args:
        entries: N entries.
        read: Returns the pixels of entries at rising positions, (n, S, S, 3) uint8.
    """
    links = [*_equal(entry.concept for entry in entries)]
    links += _equal(entry.sha256 for entry in entries)
    rows = [first for first, _ in links]
    columns = [second for _, second in links]
    shape = (len(entries), len(entries))
    graph = coo_array((np.ones(len(links), dtype=bool), (rows, columns)), shape=shape)
    _, numbers = connected_components(graph, directed=False)
    # of equal images, which are together already, one is compared with others
    first = {entry.sha256: place for place, entry in reversed([*enumerate(entries)])}
    distinct = np.array(sorted(first.values()), dtype=np.int64)
    thumbnails = np.stack([entries[place].thumbnail for place in distinct])
    groups = near_twin_groups(
        thumbnails, numbers[distinct], lambda positions: read(distinct[positions])
    )
    renamed = np.zeros(numbers.max() + 1, dtype=np.int64)
    renamed[numbers[distinct]] = groups
    result: np.ndarray = renamed[numbers]
    return result


def _equal(names: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield pairs (first position, later position) of equal names."""
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if first.setdefault(name, position) != position:
            yield first[name], position


def held_out(entries: Sequence[Entry], groups: np.ndarray, val_share: float) -> set[int]:
    """Return the groups of the validation split.

    Of each class, the groups with the lowest hashes are held out, at least one if it has two. A
    group that is all that a class has left for training is not held out.
    """
    names: dict[int, str] = {}
    classes: dict[int, set[str]] = defaultdict(set)
    for entry, group in zip(entries, groups.tolist(), strict=True):
        names[group] = min(names.get(group, entry.concept), entry.concept)
        classes[group].add(entry.category)
    by_class: dict[str, list[int]] = defaultdict(list)
    for group in sorted(names, key=lambda number: hash_order(names[number])):
        for category in classes[group]:
            by_class[category].append(group)
    left = {category: len(members) for category, members in by_class.items()}
    chosen: set[int] = set()
    for _, members in sorted(by_class.items()):
        wanted = max(1, round(val_share * len(members))) if len(members) > 1 else 0
        for group in members:
            wanted -= group in chosen
        for group in members:
            if wanted <= 0:
                break
            if group not in chosen and all(left[name] > 1 for name in classes[group]):
                chosen.add(group)
                wanted -= 1
                for name in classes[group]:
                    left[name] -= 1
    return chosen


def hash_order(text: str) -> str:
    """Return the SHA-256 of a text: an order that is fixed and has no meaning."""
    return hashlib.sha256(text.encode()).hexdigest()
