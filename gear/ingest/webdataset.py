"""WebDataset tar shards as a data source; archives are untrusted."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gear.core.errors import InputError
from gear.ingest.records import ONE_CLASS, EncodedSample, Reject

IMAGES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("json", "txt", "cls")
MAX_MEMBER = 64 << 20  # bytes


def webdataset(root: Path, caption_key: str) -> Iterator[EncodedSample | Reject]:
    """Yield the samples of tar shards.

    Samples without image or caption, and those whose key occurred before, are rejects.

    caption_key: key of the caption in a sample's .json; a .txt file is used if it is absent.
    """
    seen: set[str] = set()
    for sample in read_archives(root):
        if isinstance(sample, Reject):
            yield sample
            continue
        try:
            caption, category = sample.describe(caption_key)
        except ValueError as error:
            yield Reject(sample.key, str(error))
            continue
        if sample.key in seen:
            yield Reject(sample.key, "its key came before")
        elif not sample.image:
            yield Reject(sample.key, f"no image: .{', .'.join(IMAGES)} are read")
        else:
            seen.add(sample.key)
            yield EncodedSample(sample.key, caption, category, sample.image)


@dataclass
class Sample:
    """Members of an archive with the same key: an encoded image and its descriptions."""

    key: str
    image: bytes = b""
    parts: dict[str, bytes] = field(default_factory=dict)

    def describe(self, caption_key: str) -> tuple[str, str]:
        """Return caption and class. Raises ValueError with the reason if there is no caption."""
        facts: dict[str, Any] = {}
        if "json" in self.parts:
            try:
                facts = json.loads(self.parts["json"])
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"its .json is not JSON ({error})") from None
            if not isinstance(facts, dict):
                raise ValueError("its .json is not an object")
        caption = facts.get(caption_key)
        if caption is None and "txt" in self.parts:
            caption = _text(self.parts["txt"], "txt")
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"no caption: neither {caption_key!r} in a .json nor a .txt beside it")
        label = facts.get("class", facts.get("label"))
        if label is None and "cls" in self.parts:
            label = _text(self.parts["cls"], "cls").strip()
        return caption, ONE_CLASS if label is None else str(label)


def _text(content: bytes, kind: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"its .{kind} is not UTF-8") from None


def read_archives(root: Path) -> Iterator[Sample | Reject]:
    """Yield samples of `<root>/*.tar` in the order of their names, and members that are refused.

    Raises:
        InputError: if there is no tar file.
    """
    files = sorted(root.glob("*.tar")) if root.is_dir() else []
    if not files:
        raise InputError(f"data.root: no *.tar in {root}: name a folder of WebDataset shards")
    for file in files:
        yield from _read_archive(file)


def _read_archive(file: Path) -> Iterator[Sample | Reject]:
    current: Sample | None = None
    members = 0
    try:
        with tarfile.open(
            file, "r|"
        ) as archive:  # a stream, read once; nothing is extracted to disk
            for member in archive:
                members += 1
                if reason := _refused(member):
                    yield Reject(f"{file.name}/{member.name}", reason)
                    continue
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                stem, _, ending = path.name.partition(".")
                key, ending = f"{file.stem}/{path.parent / stem}", ending.lower()
                if current is not None and current.key != key:
                    yield current
                    current = None
                if ending not in IMAGES + TEXTS:
                    continue
                stream = archive.extractfile(member)
                content = stream.read() if stream is not None else b""
                current = current or Sample(key)
                if ending in IMAGES:
                    current.image = content
                else:
                    current.parts[ending] = content
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = f"broken after {members} members ({error}); the rest of it is not read"
        yield Reject(file.name, reason)
        return  # the last sample may be incomplete
    if current is not None:
        yield current


def _refused(member: tarfile.TarInfo) -> str:
    """Return why a member is not read; "" if it is."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "its name leads out of the archive"
    if member.issym() or member.islnk():
        return "a link"
    if not (member.isreg() or member.isdir()):
        return "neither file nor folder"
    if member.size > MAX_MEMBER:
        return f"{member.size >> 20} MiB is over {MAX_MEMBER >> 20} MiB"
    return ""
