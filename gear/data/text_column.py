"""A sequence of strings backed by an Arrow column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import pyarrow as pa

CHUNK = 4096  # strings converted at a time by iteration


class TextColumn(Sequence[str]):
    """Strings of an Arrow column, which become Python objects on access.

    A million captions take the memory of their characters; a list of `str` takes two or three times
    that, in every rank.

    >>> column = TextColumn(pa.chunked_array([["a", "b"], ["c"]]))
    >>> column[2], column[-1], column[:2], len(column), list(column)
    ('c', 'c', ['a', 'b'], 3, ['a', 'b', 'c'])
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column.cast(pa.large_string()).combine_chunks()

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            texts: list[str] = self._column[index].to_pylist()
            return texts
        text: str = self._column[int(index)].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none
