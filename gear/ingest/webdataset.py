"""TODO."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gear.core.errors import InputError
from gear.ingest.records import ONE_CLASS, EncodedSample, Reject


def webdataset(root: Path, caption_key: str) -> Iterator[EncodedSample | Reject]:
    """Samples of tar shards (archives.py); one without image or caption is a reject, and so is a key that came before."""
    seen: set[str] = set()
    for one in read_archives(root):
        if isinstance(one, tuple):
            yield Reject(*one)
            continue
        try:
            caption, category = one.about(caption_key)
        except ValueError as error:
            yield Reject(one.key, str(error))
            continue
        if not one.image or one.key in seen:
            yield Reject(
                one.key,
                "its key came before"
                if one.key in seen
                else f"no image: .{', .'.join(IMAGES)} are read",
            )
            continue
        seen.add(one.key)
        yield EncodedSample(one.key, caption, category, one.image)


IMAGES = ("jpg", "jpeg", "png", "webp")

TEXTS = ("json", "txt", "cls")

MAX_MEMBER = 64 << 20  # bytes


@dataclass
class Sample:
    """One key's members: an encoded image and what is said of it."""

    key: str
    image: bytes = b""
    parts: dict[str, bytes] = field(default_factory=dict)

    def about(self, caption_key: str) -> tuple[str, str]:
        """Caption and class. Raises ValueError with the reason where there is no caption to be had."""
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


def read_archives(root: Path) -> Iterator[Sample | tuple[str, str]]:
    """Samples of `<root>/*.tar` in name order, and (member, reason) of what is refused. Raises `InputError` where there is no tar."""
    files = sorted(root.glob("*.tar")) if root.is_dir() else []
    if not files:
        raise InputError(f"data.root: no *.tar in {root}: name a folder of WebDataset shards")
    for file in files:
        yield from _read_archive(file)


def _read_archive(file: Path) -> Iterator[Sample | tuple[str, str]]:
    current: Sample | None = None
    members = 0
    try:
        with tarfile.open(file, "r|") as archive:  # a stream: nothing is sought, nothing is written
            for member in archive:
                members += 1
                where = f"{file.name}/{member.name}"
                if reason := _refused(member):
                    yield where, reason
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
        yield file.name, f"broken after {members} members ({error}); the rest of it is not read"
        return  # the sample being read may lack what was cut off
    if current is not None:
        yield current


def _refused(member: tarfile.TarInfo) -> str:
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
