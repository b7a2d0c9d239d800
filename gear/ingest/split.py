"""Split pictures into training and validation shards."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gear.core.errors import InputError
from gear.core.files import replace_folder, write_json
from gear.core.host_config import HostConfig
from gear.data.near_twins import THUMBNAIL
from gear.data.shards import decode, image_row, write_shards
from gear.ingest.config import DataConfig
from gear.ingest.groups import DIGEST, Entries, digest, group_entries, held_out
from gear.ingest.openmoji import ATTRIBUTION
from gear.ingest.records import Picture, Reject
from gear.ingest.sources import read_pictures
from gear.ingest.spool import Spool

PROGRESS_EVERY = 10_000  # files


class Refused(InputError):
    """A source was read but is not fit for training; holds the table of its rejected files."""

    def __init__(self, message: str, rejects: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.rejects = rejects


def ingest_source(data: DataConfig, folder: Path, host: HostConfig) -> None:
    """Write a source's train and val shards, manifest.json and rejects.json to `folder`.

    Raises:
        InputError: if the source cannot be read; `folder` stays as it was.
        Refused: if too many files are rejected, or a class lacks images.
    """
    pictures = read_pictures(data, host)

    def fill(draft: Path) -> None:
        thumbnails = draft / "thumbnails"
        with Spool(draft / "spool.arrow") as spool:
            entries, rejects = _spool_pictures(pictures, spool, thumbnails)
        _refuse_many(rejects, len(entries), data.max_reject_share)
        entries = _limit(entries, data.limit, spool)
        in_val = _split(entries, data.val_share, spool)
        splits = {"train": np.flatnonzero(~in_val), "val": np.flatnonzero(in_val)}
        _require_classes(entries, splits)
        size = (data.size, data.size)
        for name, members in splits.items():
            stored = spool.read(entries.places[members], "key", "image", "caption")
            rows = (
                image_row(key, image, size, int(label), caption)
                for label, (key, image, caption) in zip(
                    entries.labels[members], stored, strict=True
                )
            )
            write_shards(rows, draft / name)
        spool.path.unlink()
        thumbnails.unlink()
        counts = {name: len(members) for name, members in splits.items()}
        manifest = {
            **counts,
            "source": data.source,
            "size": data.size,
            "classes": entries.classes,
            "rejected": len(rejects),
            "attribution": ATTRIBUTION if data.source == "openmoji" else "",
        }
        write_json(draft / "manifest.json", manifest)
        write_json(draft / "rejects.json", rejects)
        print(
            f"{counts['train']} train and {counts['val']} val images in {len(entries.classes)} "
            f"classes; {len(rejects)} rejected"
        )

    replace_folder(folder, fill)


def _spool_pictures(
    pictures: Iterable[Picture | Reject], spool: Spool, thumbnails: Path
) -> tuple[Entries, list[dict[str, str]]]:
    """Append pictures to the spool in order; return their entries, and the table of rejects.

    thumbnails: New file for the thumbnails, which the entries map into memory.
    """
    rejects: list[dict[str, str]] = []
    numbers: dict[str, int] = {}  # of classes, in the order of reading
    labels, concepts, images = array("i"), bytearray(), bytearray()
    with thumbnails.open("wb") as small:
        for picture in pictures:
            if isinstance(picture, Reject):
                rejects.append({"file": picture.file, "reason": picture.reason})
            else:
                labels.append(numbers.setdefault(picture.category, len(numbers)))
                concepts += digest(picture.concept.encode())
                images += digest(picture.image)
                small.write(picture.thumbnail.tobytes())
                spool.append(picture)
            if (count := len(labels) + len(rejects)) % PROGRESS_EVERY == 0:
                print(f"{count} files read, {len(rejects)} rejected", flush=True)
    classes = sorted(numbers)
    order = np.argsort([numbers[name] for name in classes]) if classes else np.zeros(0, np.int64)
    entries = Entries(
        places=np.arange(len(labels)),
        labels=order.astype(np.int32)[np.frombuffer(labels, dtype=np.int32)],
        classes=classes,
        concepts=np.frombuffer(concepts, dtype=DIGEST),
        images=np.frombuffer(images, dtype=DIGEST),
        thumbnails=_map_thumbnails(thumbnails, len(labels)),
    )
    return entries, rejects


def _map_thumbnails(file: Path, count: int) -> np.ndarray:
    shape = (count, THUMBNAIL, THUMBNAIL, 3)
    return np.memmap(file, np.uint8, "r", shape=shape) if count else np.zeros(shape, np.uint8)


def _refuse_many(rejects: list[dict[str, str]], accepted: int, share: float) -> None:
    files = accepted + len(rejects)
    if accepted and len(rejects) <= share * files:
        return
    first = "; ".join(f"{row['file']}: {row['reason']}"[:200] for row in rejects[:3])
    raise Refused(
        f"{len(rejects)} of {files} files rejected, over data.max_reject_share = {share}: {first}",
        rejects,
    )


def _limit(entries: Entries, limit: int, spool: Spool) -> Entries:
    """Return `limit` entries, from each class in turn, the lowest key hashes first; all if 0."""
    if not limit or limit >= len(entries):
        return entries
    hashes = b"".join(digest(key.encode()) for (key,) in spool.read(entries.places, "key"))
    order = np.lexsort([np.frombuffer(hashes, dtype=DIGEST), entries.labels])
    starts = np.searchsorted(entries.labels[order], np.arange(len(entries.classes)))
    turns = np.empty(len(entries), dtype=np.int64)
    turns[order] = np.arange(len(entries)) - starts[entries.labels[order]]
    return entries.take(np.sort(np.lexsort([entries.labels, turns])[:limit]))


def _split(entries: Entries, val_share: float, spool: Spool) -> np.ndarray:
    """Return which entries are held out, (N,) bool; no group of entries is in both splits."""

    def read(positions: np.ndarray) -> np.ndarray:
        stored = spool.read(entries.places[positions], "image")
        return np.stack([decode(image) for (image,) in stored])

    def read_concepts(positions: np.ndarray) -> Iterator[str]:
        return (concept for (concept,) in spool.read(entries.places[positions], "concept"))

    groups = group_entries(entries, read)
    return held_out(entries, groups, val_share, read_concepts)


def _require_classes(entries: Entries, splits: dict[str, np.ndarray]) -> None:
    for name, members in splits.items():
        counts = np.bincount(entries.labels[members], minlength=len(entries.classes))
        if len(missing := np.flatnonzero(counts == 0)):
            raise Refused(
                f"class {entries.classes[missing[0]]!r} has no image for the {name} split: give it "
                "at least two images that are no duplicates or near-twins of each other",
                [],
            )
