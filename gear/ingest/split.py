"""Split pictures into training and validation shards."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gear import paths
from gear.core.errors import InputError
from gear.core.files import replace_folder, write_json
from gear.data.shards import Row, Spool, write_shards
from gear.ingest.config import DataConfig
from gear.ingest.openmoji import ATTRIBUTION
from gear.ingest.records import Picture, Reject
from gear.ingest.sources import pictures


def ingest_source(data: DataConfig, folder: Path, workers: int) -> None:
    """The source into train and val shards in `folder`. Raises `InputError` and leaves `folder` as it was."""
    found = pictures(data, workers)

    def fill(draft: Path) -> None:
        with Spool(draft / "spool.parquet") as spool:
            entries, rejects = _sort(found, spool)
        table = [{"file": r.file, "reason": r.reason} for r in rejects]
        _refuse_many(table, len(entries), data.max_reject_share)
        entries = _limit(entries, data.limit)
        classes = sorted({e.category for e in entries})
        held = _held_out(entries, data.val_share)
        sides = {
            side: [e for e in entries if (e.concept in held) == (side == "val")]
            for side in ("train", "val")
        }
        _require_classes(sides, classes)
        label_of = {name: number for number, name in enumerate(classes)}
        for side, members in sides.items():
            images = spool.read([e.place for e in members])
            write_shards(
                (
                    _row(e, image, label_of, data.size)
                    for e, image in zip(members, images, strict=True)
                ),
                draft / side,
            )
        spool.path.unlink()
        manifest = {
            "source": data.source,
            "size": data.size,
            "classes": classes,
            "train": len(sides["train"]),
            "val": len(sides["val"]),
            "rejected": len(rejects),
            "attribution": ATTRIBUTION if data.source == "openmoji" else "",
        }
        write_json(draft / "manifest.json", manifest)
        write_json(draft / "rejects.json", table)
        print(
            f"{manifest['train']} train and {manifest['val']} val images in {len(classes)} classes; {len(rejects)} rejected"
        )

    replace_folder(folder, fill)


class Refused(InputError):
    """A source that was read and is not fit for training, with the table of its rejected files."""

    def __init__(self, message: str, rejects: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.rejects = rejects


@dataclass(frozen=True)
class Entry:
    """What deciding about a picture takes; its bytes wait in the spool at `place`."""

    place: int
    key: str
    concept: str
    category: str
    caption: str


def _sort(found: Iterable[Picture | Reject], spool: Spool) -> tuple[list[Entry], list[Reject]]:
    """Spool the pictures in their order; return their entries, and the rejects."""
    entries: list[Entry] = []
    rejects: list[Reject] = []
    for one in found:
        if isinstance(one, Picture):
            entries.append(Entry(len(entries), one.key, one.concept, one.category, one.caption))
            spool.append(one.image)
        else:
            rejects.append(one)
        if (done := len(entries) + len(rejects)) % 10_000 == 0:
            print(f"{done} files read, {len(rejects)} rejected", flush=True)
    return entries, rejects


def _refuse_many(table: list[dict[str, str]], accepted: int, most: float) -> None:
    if accepted and len(table) <= most * (accepted + len(table)):
        return
    write_json(paths.WORK / "rejects.json", table)
    first = "; ".join(f"{r['file']}: {r['reason']}" for r in table[:3])
    raise Refused(
        f"{len(table)} of {accepted + len(table)} files rejected, over data.max_reject_share = {most}: "
        f"{first} (all in {paths.WORK / 'rejects.json'})",
        table,
    )


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _limit(entries: list[Entry], limit: int) -> list[Entry]:
    """The first `limit` in hash order, taken class by class in turn."""
    if not limit or limit >= len(entries):
        return entries
    by_class = defaultdict(list)
    for entry in sorted(entries, key=lambda e: _order(e.key)):
        by_class[entry.category].append(entry)
    turns = [(turn, name) for name, members in by_class.items() for turn in range(len(members))]
    kept = {by_class[name][turn].key for turn, name in sorted(turns)[:limit]}
    return [e for e in entries if e.key in kept]


def _held_out(entries: list[Entry], share: float) -> set[str]:
    """Concepts of the validation split: those that hash lowest, class by class, at least one a class of two or more."""
    by_class: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        by_class[entry.category].add(entry.concept)
    held: set[str] = set()
    for concepts in by_class.values():
        wanted = max(1, round(share * len(concepts))) if len(concepts) > 1 else 0
        held.update(sorted(concepts, key=_order)[:wanted])
    return held


def _require_classes(sides: dict[str, list[Entry]], classes: list[str]) -> None:
    for side, members in sides.items():
        if missing := set(classes) - {e.category for e in members}:
            raise Refused(
                f"class {min(missing)!r} has no image for the {side} split: give it at least two images",
                [],
            )


def _row(entry: Entry, image: bytes, label_of: dict[str, int], size: int) -> Row:
    return {
        "key": entry.key,
        "image": image,
        "label": label_of[entry.category],
        "caption": entry.caption,
        "width": size,
        "height": size,
        "sha256": hashlib.sha256(image).hexdigest(),
    }
