"""Test shards of text encoder states."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gear.core.errors import InputError
from gear.data.text_states import EMPTY, TextStates, key_of, write_states


def test_states_come_back_by_caption_from_shards_that_are_the_same_in_any_order(
    tmp_path: Path,
) -> None:
    captions = [f"caption {n}" for n in range(150)]

    def encode(some: list[str]) -> list[np.ndarray]:
        return [np.full((1 + len(c) % 3, 4), int(key_of(c)[:2], 16), np.float16) for c in some]

    assert write_states([*captions, *captions[:9]], encode, tmp_path / "one") == 151
    write_states(reversed(captions), encode, tmp_path / "two")
    for file in (tmp_path / "one").glob("*.parquet"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    (tmp_path / "one" / "text.json").write_text('{"width": 4}')
    states = TextStates(tmp_path / "one", cache_bytes=2000)  # a cache that holds only a few
    lengths = [len(state) for state in encode(captions)]
    assert [states.length(caption) for caption in captions] == lengths  # before states are cached
    for caption in [*captions, EMPTY, captions[0]]:
        assert np.array_equal(states[caption], encode([caption])[0])
    with pytest.raises(InputError, match="no text states of 'other'"):
        states["other"]
    with pytest.raises(InputError, match="no text states of 'other'"):
        states.length("other")
    with pytest.raises(InputError, match="run `dvc repro features`"):
        TextStates(tmp_path / "two")


def test_states_may_be_read_in_two_threads(tmp_path: Path) -> None:
    captions = [f"caption {n}" for n in range(2000)]

    def encode(some: list[str]) -> list[np.ndarray]:
        return [np.full((2, 4), int(key_of(c)[:2], 16), np.float16) for c in some]

    write_states(captions, encode, tmp_path)
    (tmp_path / "text.json").write_text('{"width": 4}')
    states = TextStates(tmp_path, cache_bytes=1000)

    def read(step: int) -> bool:
        some = captions[::step]
        return all(np.array_equal(states[c], encode([c])[0]) for c in some)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, [3, 5, 7, 11, 13, 17, 19, 23]))
