"""Test groups of related images, which stay on one side of the split."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from gear.data.near_twins import thumbnail
from gear.ingest.groups import DIGEST, Entries, ReadTexts, digest, group_entries, held_out
from gear.ingest.openmoji import concept_of
from tests.support.images import blotches


def entries(images: np.ndarray, concepts: list[str], classes: list[str]) -> Entries:
    names = sorted(set(classes))
    return Entries(
        places=np.arange(len(images)),
        labels=np.array([names.index(name) for name in classes], np.int32),
        classes=names,
        concepts=np.array([digest(concept.encode()) for concept in concepts], DIGEST),
        images=np.array([digest(image.tobytes()) for image in images], DIGEST),
        thumbnails=thumbnail(images),
    )


def reading(concepts: list[str]) -> ReadTexts:
    return lambda positions: (concepts[position] for position in positions)


def test_concept_equal_image_and_mirrored_image_link() -> None:
    a, b, c, d = blotches(0, count=4, size=32)
    images = np.stack([a, b, a, b[:, ::-1], c, d])
    made = entries(images, ["p", "q", "r", "s", "t", "t"], ["x"] * 6)
    groups = group_entries(made, lambda positions: images[positions])
    assert groups[0] == groups[2]
    assert groups[1] == groups[3]
    assert groups[4] == groups[5]
    assert len(set(groups.tolist())) == 3


def test_links_join_into_one_group() -> None:
    a, b, c = blotches(1, count=3, size=32)
    images = np.stack([a, b, a, c])
    made = entries(images, ["p", "q", "q", "r"], ["x"] * 4)
    groups = group_entries(made, lambda positions: images[positions])
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_a_class_keeps_a_group_for_training_though_another_class_holds_it_out() -> None:
    images = blotches(2, count=5, size=32)
    concepts = ["shared", "shared", "p", "q", "r"]
    made = entries(images, concepts, ["only", "more", "more", "more", "more"])
    groups = group_entries(made, lambda positions: images[positions])
    held = held_out(made, groups, 0.5, reading(concepts))
    assert held.tolist()[:2] == [False, False]
    assert len(set(groups[held].tolist())) == 2


def test_split_does_not_depend_on_the_order_of_reading() -> None:
    images = blotches(3, count=20, size=32)
    images[15:] = images[:5, :, ::-1]  # mirrored copies, which group two concepts
    concepts = [f"concept {n % 13}" for n in range(20)]

    def val_keys(order: list[int]) -> set[int]:
        names = [concepts[n] for n in order]
        made = entries(images[order], names, ["x"] * 20)
        groups = group_entries(made, lambda positions: images[order][positions])
        held = held_out(made, groups, 0.2, reading(names))
        return set(np.array(order)[held].tolist())

    assert val_keys([*range(20)]) == val_keys([*range(20)][::-1])


def held_out_by_hand(
    groups: list[int], concepts: list[str], classes: list[str], val_share: float
) -> list[bool]:
    """Apply the rule of `held_out` with dictionaries and sets."""
    members = sorted(set(groups))
    name = {g: min(c for c, of in zip(concepts, groups, strict=True) if of == g) for g in members}
    its = {g: {c for c, of in zip(classes, groups, strict=True) if of == g} for g in members}
    by_class = defaultdict(list)
    for group in sorted(members, key=lambda g: digest(name[g].encode()).hex()):
        for category in its[group]:
            by_class[category].append(group)
    left = {category: len(of) for category, of in by_class.items()}
    held: set[int] = set()
    for _, of in sorted(by_class.items()):
        wanted = max(1, round(val_share * len(of))) if len(of) > 1 else 0
        wanted -= sum(group in held for group in of)
        for group in of:
            if wanted > 0 and group not in held and all(left[c] > 1 for c in its[group]):
                held.add(group)
                wanted -= 1
                for category in its[group]:
                    left[category] -= 1
    return [group in held for group in groups]


@pytest.mark.parametrize("seed", range(8))
def test_the_split_of_groups_that_share_classes_is_by_the_rule(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 200
    groups = random.integers(0, 90, count)
    concepts = [f"{group}, {random.integers(3)}" for group in groups]
    classes = [f"class {random.integers(1 + group % 9)}" for group in groups]
    made = entries(np.zeros((count, 8, 8, 3), np.uint8), concepts, classes)
    held = held_out(made, groups, 0.3, reading(concepts))
    assert held.tolist() == held_out_by_hand(groups.tolist(), concepts, classes, 0.3)
    assert 0 < held.sum() < count


def test_openmoji_concepts_leave_out_who_and_which_way() -> None:
    role = "person-role"
    assert concept_of("MAN ASTRONAUT", role) == concept_of("ASTRONAUT", role)
    assert concept_of("LEFTWARDS HAND", "hand") == concept_of("RIGHTWARDS HAND", "hand")
    assert concept_of("COUPLE WITH HEART", "family") == concept_of("KISS: MAN, MAN", "family")
    assert concept_of("CLOCK FACE ONE OCLOCK", "time") != concept_of("HOURGLASS", "time")
    assert concept_of("RED HEART", "heart") != concept_of("BLUE HEART", "heart")


def test_of_equal_images_one_is_read() -> None:
    a, b = blotches(5, count=2, size=32)
    images = np.stack([a] * 40 + [b, a[:, ::-1]])
    made = entries(images, [f"concept {n}" for n in range(42)], ["x"] * 42)
    read: list[int] = []

    def read_images(positions: np.ndarray) -> np.ndarray:
        read.extend(positions.tolist())
        return images[positions]

    groups = group_entries(made, read_images)
    assert (groups[:40] == groups[0]).all()
    assert groups[41] == groups[0] != groups[40]
    assert sorted(read) == [0, 41]
