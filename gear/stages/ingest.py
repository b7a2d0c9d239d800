"""Stage ingest: a source into Parquet shards, train and val split by concept, with a manifest and a rejects table."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from gear import paths
from gear.config import BadInput, Config
from gear.data.shards import Row, write_shards
from gear.data.sources import ATTRIBUTION, Picture, Reject, image_folder, openmoji
from gear.stages.files import replace_folder, write_json


def run(config: Config) -> None:
    """`data.source` → `data/shards`."""
    data = config.data
    found = openmoji(data.size) if data.source == "openmoji" else image_folder(Path(data.root), data.size, data.workers)
    pictures, rejects = _sort(found)
    share = len(rejects) / max(1, len(pictures) + len(rejects))
    table = [{"file": r.file, "reason": r.reason} for r in rejects]
    if share > data.max_reject_share or not pictures:
        write_json(paths.WORK / "rejects.json", table)
        first = "; ".join(f"{r.file}: {r.reason}" for r in rejects[:3])
        raise BadInput(
            f"{len(rejects)} of {len(pictures) + len(rejects)} files rejected, over data.max_reject_share = {data.max_reject_share}: "
            f"{first} (all in {paths.WORK / 'rejects.json'})"
        )
    pictures = _limit(pictures, data.limit)
    classes = sorted({p.category for p in pictures})
    held = _held_out(pictures, data.val_share)
    sides = {side: [p for p in pictures if (p.concept in held) == (side == "val")] for side in ("train", "val")}
    _require_classes(sides, classes)

    def fill(draft: Path) -> None:
        for side, members in sides.items():
            write_shards((_row(p, classes, data.size) for p in members), draft / side)
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

    replace_folder(paths.SHARDS, fill)
    print(f"{len(sides['train'])} train and {len(sides['val'])} val images in {len(classes)} classes; {len(rejects)} rejected")


def _sort(found: Iterable[Picture | Reject]) -> tuple[list[Picture], list[Reject]]:
    pictures: list[Picture] = []
    rejects: list[Reject] = []
    for one in found:
        if isinstance(one, Picture):
            pictures.append(one)
        else:
            rejects.append(one)
        if (done := len(pictures) + len(rejects)) % 10_000 == 0:
            print(f"{done} files read, {len(rejects)} rejected", flush=True)
    return pictures, rejects


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _limit(pictures: list[Picture], limit: int) -> list[Picture]:
    """The first `limit` in hash order, taken class by class in turn."""
    if not limit or limit >= len(pictures):
        return pictures
    by_class = defaultdict(list)
    for picture in sorted(pictures, key=lambda p: _order(p.key)):
        by_class[picture.category].append(picture)
    turns = [(turn, name) for name, members in by_class.items() for turn in range(len(members))]
    kept = {by_class[name][turn].key for turn, name in sorted(turns)[:limit]}
    return [p for p in pictures if p.key in kept]


def _held_out(pictures: list[Picture], share: float) -> set[str]:
    """Concepts of the validation split: those that hash lowest, class by class, at least one a class of two or more."""
    by_class: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        by_class[picture.category].add(picture.concept)
    held: set[str] = set()
    for concepts in by_class.values():
        wanted = max(1, round(share * len(concepts))) if len(concepts) > 1 else 0
        held.update(sorted(concepts, key=_order)[:wanted])
    return held


def _require_classes(sides: dict[str, list[Picture]], classes: list[str]) -> None:
    for side, members in sides.items():
        if missing := set(classes) - {p.category for p in members}:
            raise BadInput(f"class {min(missing)!r} has no image for the {side} split: give it at least two images")


def _row(picture: Picture, classes: list[str], size: int) -> Row:
    return {
        "key": picture.key,
        "image": picture.image,
        "label": classes.index(picture.category),
        "caption": picture.caption,
        "width": size,
        "height": size,
        "sha256": hashlib.sha256(picture.image).hexdigest(),
    }
