"""Split pictures into training and validation shards."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gear.core.errors import InputError
from gear.core.files import replace_folder, write_json
from gear.data.shards import Spool, image_row, write_shards
from gear.ingest.config import DataConfig
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
        splits = _split(entries, data.val_share)
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


@dataclass(frozen=True)
class _Entry:
    """A picture without its bytes, which lie in the spool at `place`."""

    place: int
    key: str
    concept: str
    category: str
    caption: str


def _spool_pictures(
    pictures: Iterable[Picture | Reject], spool: Spool
) -> tuple[list[_Entry], list[dict[str, str]]]:
    """Append pictures to the spool in order; return their entries, and the table of rejects."""
    entries: list[_Entry] = []
    rejects: list[dict[str, str]] = []
    for picture in pictures:
        if isinstance(picture, Reject):
            rejects.append({"file": picture.file, "reason": picture.reason})
        else:
            entries.append(
                _Entry(
                    len(entries), picture.key, picture.concept, picture.category, picture.caption
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
    first = "; ".join(f"{row['file']}: {row['reason']}" for row in rejects[:3])
    raise Refused(
        f"{len(rejects)} of {files} files rejected, over data.max_reject_share = {share}: {first}",
        rejects,
    )


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _limit(entries: list[_Entry], limit: int) -> list[_Entry]:
    """Return the first `limit` entries in hash order, from each class in turn; all if 0."""
    if not limit or limit >= len(entries):
        return entries
    by_class = defaultdict(list)
    for entry in sorted(entries, key=lambda e: _order(e.key)):
        by_class[entry.category].append(entry)
    turns = [(turn, name) for name, members in by_class.items() for turn in range(len(members))]
    keys = {by_class[name][turn].key for turn, name in sorted(turns)[:limit]}
    return [entry for entry in entries if entry.key in keys]


def _split(entries: list[_Entry], val_share: float) -> dict[str, list[_Entry]]:
    """Return the entries of the `train` and `val` splits, by concept.

    Of each class, the concepts with the lowest hashes are held out, at least one if it has two.
    """
    by_class: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        by_class[entry.category].add(entry.concept)
    held_out: set[str] = set()
    for concepts in by_class.values():
        count = max(1, round(val_share * len(concepts))) if len(concepts) > 1 else 0
        held_out.update(sorted(concepts, key=_order)[:count])
    return {
        "train": [entry for entry in entries if entry.concept not in held_out],
        "val": [entry for entry in entries if entry.concept in held_out],
    }


def _require_classes(splits: dict[str, list[_Entry]], classes: list[str]) -> None:
    for name, members in splits.items():
        if missing := set(classes) - {entry.category for entry in members}:
            raise Refused(
                f"class {min(missing)!r} has no image for the {name} split: "
                "give it at least two images",
                [],
            )
