"""Test the cached tokens of a frozen tokenizer: what they are, and when they are computed anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gear.data.shards import Split, encode, image_row, write_shards
from gear.joint import token_cache
from gear.tokenizer.inference import encode_images
from gear.training.distributed import DistributedContext
from tests.support.images import blotches
from tests.unit.report.test_page import tokenizer_of

TOKENIZER = tokenizer_of(8)
SIZE = 16


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    pixels = blotches(0, 5, SIZE)
    rows = [
        image_row(str(number), encode(image, "png"), (SIZE, SIZE), 0, "")
        for number, image in enumerate(pixels)
    ]
    write_shards(rows, tmp_path / "shards")
    return tmp_path / "shards"


def cached(shards: Path, context: DistributedContext, **changes: Any) -> np.ndarray:
    settings: dict[str, Any] = {"grid": SIZE // 4, "flip": True, "portable": False}
    return token_cache.cached_tokens(
        TOKENIZER,
        Split(shards),
        context,
        cache=shards.parent / "tokens",
        contents=(shards,),
        **(settings | changes),
    )


def files(shards: Path) -> set[str]:
    return {file.name for file in (shards.parent / "tokens").iterdir()}


def test_tokens_are_those_of_the_images_and_of_their_mirror_images(
    shards: Path, world: DistributedContext
) -> None:
    pixels = Split(shards)[:]
    tokens = cached(shards, world)
    assert tokens.shape == (5, 2, 16)
    assert np.array_equal(tokens[:, 0], encode_images(TOKENIZER, pixels))
    assert np.array_equal(tokens[:, 1], encode_images(TOKENIZER, pixels[:, :, ::-1].copy()))
    assert np.array_equal(cached(shards, world, flip=False), tokens[:, :1])


def test_a_second_call_reads_the_file(shards: Path, world: DistributedContext) -> None:
    cached(shards, world)
    (name,) = files(shards)
    planted = np.full((5, 2, 16), 3, np.uint16)
    np.save(shards.parent / "tokens" / name, planted)
    assert np.array_equal(cached(shards, world), planted)
    assert files(shards) == {name}


@pytest.mark.parametrize("content", [b"", b"junk", None], ids=["empty", "junk", "cut"])
def test_a_damaged_file_is_made_again(
    shards: Path, world: DistributedContext, content: bytes | None
) -> None:
    tokens = cached(shards, world).copy()
    (name,) = files(shards)
    file = shards.parent / "tokens" / name
    file.write_bytes(file.read_bytes()[:-3] if content is None else content)
    assert np.array_equal(cached(shards, world), tokens)
    assert files(shards) == {name}


def test_what_decides_the_tokens_names_the_file(
    shards: Path, world: DistributedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(shards, world)
    before = files(shards)
    cached(shards, world, portable=True)
    assert len(files(shards)) == len(before) + 1
    monkeypatch.setattr(token_cache, "version", lambda name: "another")
    cached(shards, world)
    assert len(files(shards)) == len(before) + 2
    monkeypatch.setattr(token_cache, "code_hashes", lambda parts: {"tokenizer/model.py": "edited"})
    cached(shards, world)
    assert len(files(shards)) == len(before) + 3
