"""Test captions: readable text, one line, and which images may be mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from gear.data.captions import is_text, may_mirror, normalize_caption
from gear.training.batches import ClassBalancedSampler


def test_images_whose_caption_names_a_side_are_not_mirrored() -> None:
    captions = [
        "leftwards arrow",
        "a dog",
        "Right-pointing hand",
        "bright copyright",
        "turn LEFT here",
        "fist, left hand",
    ]
    assert may_mirror(captions).tolist() == [False, True, False, True, False, False]
    plan = ClassBalancedSampler(np.zeros(6, np.int64), 12, 0, may_mirror(captions))
    mirrored = np.concatenate(
        [indices[flips] for indices, flips in (plan.batch(step) for step in range(40))]
    )
    assert set(mirrored) == {1, 3}


@pytest.mark.parametrize(
    ("caption", "good"),
    [
        ("red heart", True),
        ("写真", True),
        ("a\x00b", False),
        ("bad\ufffd", False),
        ("...", False),
        ("😀", True),
        ("line\nbreak", False),
    ],
)
def test_readable_captions(caption: str, good: bool) -> None:
    assert is_text(caption) is good


def test_tidied_captions_are_one_line() -> None:
    assert normalize_caption("  a\n\tcafe\u0301 ") == "a café"
