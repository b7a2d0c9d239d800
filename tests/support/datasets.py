"""Small images and archives to ingest."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from gear.params import Config
from tests.support.settings import tiny_settings


def settings(**data: object) -> Config:
    """Return the tiny settings for ingest in this process, with some values of `data` changed."""
    return tiny_settings(host={"workers": 1}, data=data)


def picture(number: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def good(count: int = 24) -> list[tuple[str, bytes]]:
    members = []
    for number in range(count):
        kind = ("PNG", "JPEG", "WEBP")[number % 3]
        members.append(
            (f"{number:04d}.{kind.lower().replace('jpeg', 'jpg')}", picture(number, kind))
        )
        facts = {"caption": f"picture number {number}", "class": ("cat", "dog")[number % 2]}
        members.append((f"{number:04d}.json", json.dumps(facts).encode()))
    return members
