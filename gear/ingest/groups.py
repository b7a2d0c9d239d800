"""Group pictures that must be in the same split, and choose the groups for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gear.data.near_twins import ReadImages, near_twin_groups

DIGEST = "S32"  # a SHA-256

ReadTexts = Callable[[np.ndarray], Iterator[str]]


@dataclass(frozen=True)
class Entries:
    """Columns of N pictures that fit in memory, about 300 bytes each: no pixels, names or captions.

    Args:
        places: Positions of the pictures in the spool, (N,) int64, ascending.
        labels: Positions of their classes in `classes`, (N,) int32.
        classes: Names of the classes, ascending; each has a picture.
        concepts: SHA-256 of their concepts, (N,) S32.
        images: SHA-256 of the encoded images at training size, (N,) S32.
        thumbnails: For the near-twin search, (N, 8, 8, 3) uint8.
    """

    places: np.ndarray
    labels: np.ndarray
    classes: list[str]
    concepts: np.ndarray
    images: np.ndarray
    thumbnails: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def take(self, positions: np.ndarray) -> Entries:
        """Return the entries at ascending positions; classes without entries are dropped."""
        present, labels = np.unique(self.labels[positions], return_inverse=True)
        return Entries(
            places=self.places[positions],
            labels=labels.astype(np.int32),
            classes=[self.classes[label] for label in present],
            concepts=self.concepts[positions],
            images=self.images[positions],
            thumbnails=self.thumbnails[positions],
        )


def digest(content: bytes) -> bytes:
    """Return the SHA-256 of a name or an image; sorting names by it gives an arbitrary order."""
    return hashlib.sha256(content).digest()


def group_entries(entries: Entries, read: ReadImages) -> np.ndarray:
    """Return the group of each entry, (N,) int64, numbered 0, 1, ... by first entry.

    Entries of one concept, equal images and near-twins are linked. Groups are the connected
    components of these links: if B is a near-twin of A and of C, all three are in one group.

    Args:
        entries: N entries.
        read: Returns the pixels of entries at ascending positions, (n, S, S, 3) uint8.
    """
    of_concept, _ = _link_equal(entries.concepts)
    of_image, distinct = _link_equal(entries.images)
    links = np.concatenate([of_concept, of_image], axis=1)
    shape = (len(entries), len(entries))
    graph = coo_array((np.ones(links.shape[1], dtype=bool), tuple(links)), shape=shape)
    _, numbers = connected_components(graph, directed=False)
    # equal images are in one group already: near-twins are searched among their first ones only
    all_differ = len(distinct) == len(entries)
    thumbnails = entries.thumbnails if all_differ else entries.thumbnails[distinct]
    groups = near_twin_groups(
        thumbnails, numbers[distinct], lambda positions: read(distinct[positions])
    )
    renamed = np.zeros(numbers.max() + 1, dtype=np.int64)
    renamed[numbers[distinct]] = groups
    result: np.ndarray = renamed[numbers]
    return result


def _link_equal(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (first position, later position) of equal values, (2, P), and first positions.

    There is one first position per distinct value; they are ascending.
    """
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    first_equal = first[inverse]
    later = np.flatnonzero(first_equal != np.arange(len(values)))
    return np.stack([first_equal[later], later]), np.sort(first)


def held_out(
    entries: Entries, groups: np.ndarray, val_share: float, read_concepts: ReadTexts
) -> np.ndarray:
    """Return which entries are in the validation split, (N,) bool.

    Of each class, the groups with the lowest hashes are held out, at least one if it has two. A
    group is not held out if a class would have none left for training.

    Args:
        entries: N entries.
        groups: Group of each entry, (N,) int64.
        val_share: Share of the groups of each class to hold out.
        read_concepts: Returns the concepts of entries at ascending positions.
    """
    rank = _hash_ranks(entries, groups, read_concepts)  # of each entry's group
    count = int(rank.max()) + 1
    labels = len(entries.classes)
    # the pairs (class, group) and (group, class) that occur, in order
    by_class = np.unique(entries.labels * np.int64(count) + rank)
    by_group = np.unique(rank * labels + entries.labels)
    starts = np.searchsorted(by_class, np.arange(labels + 1) * count)
    left = np.diff(starts)
    begins = np.searchsorted(by_group, np.arange(count + 1) * labels)
    held = np.zeros(count, dtype=bool)
    for label in range(labels):
        members = by_class[starts[label] : starts[label + 1]] % count
        wanted = max(1, round(val_share * len(members))) if len(members) > 1 else 0
        wanted -= int(held[members].sum())
        for group in members:
            if wanted <= 0:
                break
            its_labels = by_group[begins[group] : begins[group + 1]] % labels
            if not held[group] and (left[its_labels] > 1).all():
                held[group] = True
                wanted -= 1
                left[its_labels] -= 1
    result: np.ndarray = held[rank]
    return result


def _hash_ranks(entries: Entries, groups: np.ndarray, read_concepts: ReadTexts) -> np.ndarray:
    """Return the rank of each entry's group when groups are sorted by hash, (N,) int64.

    The hash of a group is that of its alphabetically first concept, so it does not depend on the
    order of reading.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    hashes = entries.concepts[first]
    several = np.zeros(len(first), dtype=bool)  # groups of more than one concept
    several[group_of[entries.concepts != hashes[group_of]]] = True
    positions = np.flatnonzero(several[group_of])
    names: dict[int, str] = {}
    for group, name in zip(group_of[positions].tolist(), read_concepts(positions), strict=True):
        names[group] = min(names.get(group, name), name)
    for group, name in names.items():
        hashes[group] = digest(name.encode())
    ranks = np.empty(len(first), dtype=np.int64)
    ranks[np.argsort(hashes, kind="stable")] = np.arange(len(first))
    result: np.ndarray = ranks[group_of]
    return result
