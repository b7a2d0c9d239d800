"""Split pictures into training and validation shards."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gear.core.errors import InputError
from gear.core.files import replace_folder, write_json
from gear.data.shards import Spool, decode, image_row, write_shards
from gear.ingest.config import DataConfig
from gear.ingest.groups import Entry, group_entries, hash_order, held_out
from gear.ingest.openmoji import ATTRIBUTION
from gear.ingest.records import Picture, Reject
from gear.ingest.sources import read_pictures

PROGRESS_EVERY = 10_000  # files


class Refused(InputError):
    """A source that was read and is not fit for training, with the table of its rejected files."""

    def __init__(self, message: str, rejects: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.rejects = rejects


def ingest_source(data: DataConfig, folder: Path, workers: int) -> None:
    """Write a source's train and val shards, manifest.json and rejects.json to `folder`.

    Raises:
        InputError: if the source cannot be read; `folder` stays as it was.
        Refused: if too many files are rejected, or a class lacks images.
    """
    pictures = read_pictures(data, workers)

    def fill(draft: Path) -> None:
        with Spool(draft / "spool.parquet") as spool:
            entries, rejects = _spool_pictures(pictures, spool)
        _refuse_many(rejects, len(entries), data.max_reject_share)
        entries = _limit(entries, data.limit)
        classes = sorted({entry.category for entry in entries})
        splits = _split(entries, data.val_share, spool)
        _require_classes(splits, classes)
        label_of = {name: number for number, name in enumerate(classes)}
        size = (data.size, data.size)
        for name, members in splits.items():
            images = spool.read([entry.place for entry in members])
            rows = (
                image_row(entry.key, image, size, label_of[entry.category], entry.caption)
                for entry, image in zip(members, images, strict=True)
            )
            write_shards(rows, draft / name)
        spool.path.unlink()
        counts = {name: len(members) for name, members in splits.items()}
        manifest = {
            **counts,
            "source": data.source,
            "size": data.size,
            "classes": classes,
            "rejected": len(rejects),
            "attribution": ATTRIBUTION if data.source == "openmoji" else "",
        }
        write_json(draft / "manifest.json", manifest)
        write_json(draft / "rejects.json", rejects)
        print(
            f"{counts['train']} train and {counts['val']} val images in {len(classes)} classes; "
            f"{len(rejects)} rejected"
        )

    replace_folder(folder, fill)


def _spool_pictures(
    pictures: Iterable[Picture | Reject], spool: Spool
) -> tuple[list[Entry], list[dict[str, str]]]:
    """Append pictures to the spool in order; return their entries, and the table of rejects."""
    entries: list[Entry] = []
    rejects: list[dict[str, str]] = []
    for picture in pictures:
        if isinstance(picture, Reject):
            rejects.append({"file": picture.file, "reason": picture.reason})
        else:
            entries.append(
                Entry(
                    place=len(entries),
                    key=picture.key,
                    concept=picture.concept,
                    category=sys.intern(picture.category),  # one object for a class
                    caption=picture.caption,
                    sha256=hashlib.sha256(picture.image).hexdigest(),
                    thumbnail=picture.thumbnail,
                )
            )
            spool.append(picture.image)
        if (count := len(entries) + len(rejects)) % PROGRESS_EVERY == 0:
            print(f"{count} files read, {len(rejects)} rejected", flush=True)
    return entries, rejects


def _refuse_many(rejects: list[dict[str, str]], accepted: int, share: float) -> None:
    files = accepted + len(rejects)
    if accepted and len(rejects) <= share * files:
        return
    first = "; ".join(f"{row['file']}: {row['reason']}"[:200] for row in rejects[:3])
    raise Refused(
        f"{len(rejects)} of {files} files rejected, over data.max_reject_share = {share}: {first}",
        rejects,
    )


def _limit(entries: list[Entry], limit: int) -> list[Entry]:
    """Return the first `limit` entries in hash order, from each class in turn; all if 0."""
    if not limit or limit >= len(entries):
        return entries
    by_class = defaultdict(list)
    for entry in sorted(entries, key=lambda e: hash_order(e.key)):
        by_class[entry.category].append(entry)
    turns = [(turn, name) for name, members in by_class.items() for turn in range(len(members))]
    keys = {by_class[name][turn].key for turn, name in sorted(turns)[:limit]}
    return [entry for entry in entries if entry.key in keys]


def _split(entries: list[Entry], val_share: float, spool: Spool) -> dict[str, list[Entry]]:
    """Return the entries of the `train` and `val` splits; no group of entries is on both sides."""

    def read(positions: np.ndarray) -> np.ndarray:
        images = spool.read([entries[n].place for n in positions])
        return np.stack([decode(image) for image in images])

    groups = group_entries(entries, read)
    val = held_out(entries, groups, val_share)
    splits: dict[str, list[Entry]] = {"train": [], "val": []}
    for entry, group in zip(entries, groups.tolist(), strict=True):
        splits["val" if group in val else "train"].append(entry)
    return splits


def _require_classes(splits: dict[str, list[Entry]], classes: list[str]) -> None:
    for name, members in splits.items():
        if missing := set(classes) - {entry.category for entry in members}:
            raise Refused(
                f"class {min(missing)!r} has no image for the {name} split: give it at least two "
                "images that are no duplicates or near-twins of each other",
                [],
            )
