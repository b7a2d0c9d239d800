from __future__ import annotations

import hashlib

import numpy as np

from gear.data.near_twins import thumbnail
from gear.ingest.groups import Entry, group_entries, held_out
from gear.ingest.openmoji import concept_of
from tests.support.images import blotches


def entries(images: np.ndarray, concepts: list[str], classes: list[str]) -> list[Entry]:
    return [
        Entry(
            place=number,
            key=str(number),
            concept=concept,
            category=category,
            caption="",
            sha256=hashlib.sha256(image.tobytes()).hexdigest(),
            thumbnail=thumbnail(image),
        )
        for number, (image, concept, category) in enumerate(
            zip(images, concepts, classes, strict=True)
        )
    ]


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
    held = held_out(made, groups, val_share=0.5)
    assert groups[0] not in held
    assert len(held) == 2


def test_split_does_not_depend_on_the_order_of_reading() -> None:
    images = blotches(3, count=20, size=32)
    concepts = [f"concept {n % 13}" for n in range(20)]
    made = entries(images, concepts, ["x"] * 20)

    def val_keys(order: list[Entry]) -> set[str]:
        pixels = np.stack([images[entry.place] for entry in order])
        groups = group_entries(order, lambda positions: pixels[positions])
        held = held_out(order, groups, val_share=0.2)
        return {entry.key for entry, group in zip(order, groups, strict=True) if group in held}

    assert val_keys(made) == val_keys(made[::-1])


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

    def reading(positions: np.ndarray) -> np.ndarray:
        read.extend(positions.tolist())
        return images[positions]

    groups = group_entries(made, reading)
    assert (groups[:40] == groups[0]).all()
    assert groups[41] == groups[0] != groups[40]
    assert sorted(read) == [0, 41]
