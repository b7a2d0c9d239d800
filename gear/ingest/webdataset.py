"""WebDataset tar shards as a data source; archives are untrusted."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gear.core.errors import InputError
from gear.ingest.records import (
    ONE_CLASS,
    BrokenArchive,
    EncodedSample,
    FileRange,
    Reject,
    class_as_caption,
)

IMAGES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("json", "txt", "cls")
MAX_MEMBER = 64 << 20  # bytes


def webdataset(root: Path, caption_key: str, max_broken: float) -> Iterator[EncodedSample | Reject]:
    """Yield the samples of tar shards, whose images are located but not read, and rejects.

    Rejects are samples without image, with neither caption nor class, or with a key that occurred
    before.

    Args:
        root: Folder of the archives.
        caption_key: Key of the caption in a sample's .json; a .txt file is used if it is absent,
            and the name of the class if there is none.
        max_broken: Share of archives that may be broken.
    """
    archive = ""
    seen: set[str] = set()  # keys of one archive: they begin with its name
    for sample in read_archives(root, max_broken):
        if isinstance(sample, Reject):
            yield sample
            continue
        if archive != (archive := sample.key.partition("/")[0]):
            seen.clear()
        try:
            caption, category = sample.describe(caption_key)
        except ValueError as error:
            yield Reject(sample.key, str(error))
            continue
        if sample.key in seen:
            yield Reject(sample.key, "its key came before")
        elif sample.image is None or not sample.image.size:
            yield Reject(sample.key, f"no image: .{', .'.join(IMAGES)} are read")
        else:
            seen.add(sample.key)
            yield EncodedSample(sample.key, caption, category, sample.image)


@dataclass
class Sample:
    """Members of an archive with the same key: where the image lies, and its descriptions."""

    key: str
    image: FileRange | None = None
    parts: dict[str, bytes] = field(default_factory=dict)

    def describe(self, caption_key: str) -> tuple[str, str]:
        """Return caption and class; without a caption, it is the name of the class.

        Raises:
            ValueError: with the reason, if there is neither.
        """
        facts: dict[str, Any] = {}
        if "json" in self.parts:
            try:
                facts = json.loads(self.parts["json"])
            except (ValueError, RecursionError) as error:
                raise ValueError(f"its .json is not JSON ({error})") from None
            if not isinstance(facts, dict):
                raise ValueError("its .json is not an object")
        caption = facts.get(caption_key)
        if caption is None and "txt" in self.parts:
            caption = _text(self.parts["txt"], "txt")
        label = facts.get("class", facts.get("label"))
        if label is None and "cls" in self.parts:
            label = _text(self.parts["cls"], "cls").strip()
        if caption is None and label is not None:
            caption = class_as_caption(str(label))
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(
                f"no caption: neither {caption_key!r} in a .json nor a .txt beside it, and no class"
            )
        return caption, ONE_CLASS if label is None else str(label)


def _text(content: bytes, kind: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"its .{kind} is not UTF-8") from None


def read_archives(root: Path, max_broken: float) -> Iterator[Sample | Reject]:
    """Yield the samples of `<root>/*.tar`, archives sorted by name, and rejects.

    Raises:
        InputError: if there is no tar file, or a larger share than `max_broken` of them is broken.
    """
    files = sorted(root.glob("*.tar")) if root.is_dir() else []
    if not files:
        raise InputError(f"data.root: no *.tar in {root}: name a folder of WebDataset shards")
    broken: list[BrokenArchive] = []
    for file in files:
        samples = _read_archive(file) if file.is_file() else [BrokenArchive(file.name, "no file")]
        for sample in samples:
            yield sample
            broken += [sample] if isinstance(sample, BrokenArchive) else []
    if len(broken) > max_broken * len(files):
        raise InputError(
            f"{len(broken)} of {len(files)} archives broken, over data.max_reject_share = "
            f"{max_broken}: {root / broken[0].file}: {broken[0].reason}"
        )


def _read_archive(file: Path) -> Iterator[Sample | Reject]:
    current: Sample | None = None
    members = 0
    try:
        length = file.stat().st_size
        with tarfile.open(file, "r:") as archive:  # nothing is extracted to disk
            for member in archive:
                members += 1
                archive.members = []  # type: ignore[attr-defined]  # else it grows with the file
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
                _require_content(member, length)
                current = current or Sample(key)
                if ending in IMAGES:
                    current.image = FileRange(file.absolute(), member.offset_data, member.size)
                else:
                    stream = archive.extractfile(member)
                    current.parts[ending] = stream.read() if stream is not None else b""
            _require_end(archive)
    except Exception as error:  # damaged headers raise errors of many types
        reason = f"broken after {members} members ({error}): what follows is lost; copy it again"
        yield BrokenArchive(file.name, reason)
        return  # the last sample may be incomplete
    if current is not None:
        yield current


def _require_content(member: tarfile.TarInfo, length: int) -> None:
    """Raise EOFError if an archive of `length` bytes ends within a member."""
    held = min(member.size, max(0, length - member.offset_data))
    if held != member.size:
        raise EOFError(f"{member.name} ends after {held} of {member.size} bytes")


def _require_end(archive: tarfile.TarFile) -> None:
    """Raise EOFError unless a block of zeros ends the archive; tarfile ends at any damage too."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise EOFError("no end marker here")


def _refused(member: tarfile.TarInfo) -> str:
    """Return why a member is not read; "" if it is."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "its name leads out of the archive"
    if member.issym() or member.islnk():
        return "a link"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "neither file nor folder"
    if member.size > MAX_MEMBER:
        return f"{member.size >> 20} MiB is over {MAX_MEMBER >> 20} MiB"
    return ""
