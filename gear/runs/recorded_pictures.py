"""Read samples and reconstructions of a recorded run, without a checkout or a model.

Samples are read from the run's shards of samples, reconstructions from its report: the sheets of
validation images and of their reconstructions.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
from dvc.exceptions import DvcException
from dvc_data.index import DataIndexDirError
from PIL import Image

from gear import paths
from gear.core.errors import InputError
from gear.core.text import one_line
from gear.data.shards import decode
from gear.runs.revision import MissingContentError, Revision

FORMATS = ("PNG", "JPEG")  # of pictures in a report
COLUMNS = ["image", "label", "caption"]
SEEDS = re.compile(r"(\d+) \* (\d+) \+ i")  # of samples, in their protocol


@dataclass(frozen=True)
class Sample:
    """A sampled image (S, S, 3) uint8, and the class or caption that it was sampled for."""

    pixels: np.ndarray
    label: int
    caption: str


@dataclass(frozen=True)
class Reconstructions:
    """Validation images and their reconstructions by a run's tokenizer, both (N, S, S, 3) uint8."""

    originals: np.ndarray
    copies: np.ndarray


def first_samples(revision: Revision, count: int) -> list[Sample]:
    """Return the first `count` samples of a run, or all if there are fewer.

    Raises:
        MissingContentError: if they are not in DVC's cache.
        InputError: if they are damaged.
    """
    folder = str(paths.SAMPLES)
    try:
        found = sorted(str(path) for path in revision.files.find(folder))
        shards = [path for path in found if path.endswith(".parquet") and "/prompts/" not in path]
        if not shards:
            raise FileNotFoundError(folder)
        file = revision.files.open(shards[0], "rb")
    except (OSError, DvcException, DataIndexDirError):
        raise MissingContentError(f"{folder} of {revision.name} is not in DVC's cache") from None
    try:
        with file:
            batches = pq.ParquetFile(file).iter_batches(count, columns=COLUMNS)
            rows = next(batches).to_pylist()
        return [Sample(decode(row["image"]), row["label"], row["caption"] or "") for row in rows]
    except Exception as error:  # readers of damaged files raise errors of every kind
        raise _damaged(shards[0], revision, error) from None


def sample_seed(protocol: str, number: int) -> int | None:
    """Return the seed of a sample, given the seeds of its protocol; None if they cannot be parsed.

    >>> sample_seed("2 * 1000003 + i", 5), sample_seed("unknown", 5)
    (2000011, None)
    """
    found = SEEDS.fullmatch(protocol)
    return int(found[1]) * int(found[2]) + number if found else None


def reconstructions(revision: Revision, size: int, count: int) -> Reconstructions:
    """Return up to `count` validation images and their reconstructions, from the run's report.

    size: pixels a side of an image.

    Raises:
        MissingContentError: if the report is not in DVC's cache.
        InputError: if it has no such pictures.
    """
    page = revision.read(str(paths.PAGE))
    if page is None:
        raise MissingContentError(f"{paths.PAGE} of {revision.name} is not in DVC's cache")
    sheets = _Sheets()
    sheets.feed(page.decode(errors="replace"))
    try:
        originals, copies = (_tiles(_pixels(uri), size, count) for uri in sheets.pictures)
        if originals.shape != copies.shape or not len(originals):
            raise ValueError("its sheets do not fit each other")
    except Exception as error:  # decoders of damaged pictures raise errors of every kind
        raise _damaged(str(paths.PAGE), revision, error) from None
    return Reconstructions(originals, copies)


class _Sheets(HTMLParser):
    """Collects the pictures of the figure that compares originals and reconstructions."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "figure":
            self.inside = values.get("class") == "compare" and not self.pictures
        if tag == "img" and self.inside:
            self.pictures.append(values.get("src") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self.inside = False


def _pixels(uri: str) -> np.ndarray:
    """Return the picture of a data URI, (H, W, 3) uint8."""
    head, _, text = uri.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ValueError("a picture is not in the page")
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("a picture is cut") from None
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        return np.asarray(opened.convert("RGB"))


def _tiles(sheet: np.ndarray, size: int, count: int) -> np.ndarray:
    """Return up to `count` images of a sheet; a last row, which may not be full, is left out.

    >>> _tiles(np.zeros((8, 12, 3), np.uint8), 4, count=5).shape
    (3, 4, 4, 3)
    """
    rows, columns = sheet.shape[0] // size, sheet.shape[1] // size
    if not rows * columns or (rows * size, columns * size) != sheet.shape[:2]:
        raise ValueError(f"a sheet is not of images of {size} pixels")
    full = rows - 1 if rows > 1 else 1
    tiles = sheet[: full * size].reshape(full, size, columns, size, 3).swapaxes(1, 2)
    return tiles.reshape(-1, size, size, 3)[:count]


def _damaged(path: str, revision: Revision, error: Exception) -> InputError:
    reason = one_line(str(error), 100) or type(error).__name__
    return InputError(f"{path} of {revision.name} cannot be read: {reason}")
