"""Read the image files of a command, and write its picture."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gear.commands.arguments import positive
from gear.core.errors import InputError
from gear.core.files import replace_file, require_writable
from gear.core.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from gear.pretrained import ImageTokenizer

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
MOST_PIXELS = {".jpg": 65500, ".webp": 16383}  # a side, of the formats' encoders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for images and tokenizer."""
    parser.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="image files, or folders of them"
    )
    parser.add_argument(
        "--checkpoint",
        default="data/models/generator",
        help="a tokenizer's folder, one with tokenizer/ in it, or owner/name of the Hugging Face "
        "Hub (default: the pipeline's own)",
    )
    parser.add_argument(
        "--size",
        type=positive,
        help="pixels a side that images are cropped and resized to (default: what the checkpoint "
        "was trained on)",
    )


def open_tokenizer(checkpoint: str, size: int | None) -> ImageTokenizer:
    """Return a tokenizer with the size of its images, on a GPU if there is one.

    Raises:
        InputError: if there is no tokenizer, no size is known, or it is too large or no multiple of
            the stride.
    """
    import torch

    from gear.pretrained import load_tokenizer, require_size

    tokenizer = load_tokenizer(checkpoint)
    if size is not None:
        require_size(size, tokenizer.stride, f"--size {size}")
        tokenizer.size = size
    if tokenizer.size is None:
        raise InputError(f"{checkpoint}: it does not say on which size it was trained: give --size")
    return tokenizer.to("cuda" if torch.cuda.is_available() else "cpu")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return image files, and those inside folders sorted by name.

    Raises:
        InputError: if none is named, or a folder has none.
    """
    from gear.ingest.folder import IMAGE_ENDINGS

    if not paths:
        raise InputError("no image: name image files, or folders of them")
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_ENDINGS and file.is_file()
        )
        if not inside:
            raise InputError(f"{path}: no image in this folder ({', '.join(IMAGE_ENDINGS)})")
        found += inside
    return found


def read_images(files: list[Path], size: int) -> np.ndarray:
    """Return images cropped and resized to squares, (N, size, size, 3) uint8.

    Raises:
        InputError: if one cannot be read; the message names it.
    """
    import numpy as np

    from gear.ingest.decode import read_square, reject_reason

    pixels = np.empty((len(files), size, size, 3), np.uint8)
    for number, file in enumerate(files):
        try:
            pixels[number] = read_square(file, size)
        except Exception as error:  # decoders of damaged files raise errors of every kind
            what = one_line(reject_reason(error), 150)
            raise InputError(f"{file}: no image that can be read: {what}") from None
    return pixels


def require_picture(out: Path) -> None:
    """Raise `InputError` unless `--out` names a picture that can be written."""
    if out.suffix.lower() not in PICTURES:
        raise InputError(f"--out {out}: write a .png, .jpg or .webp")
    require_writable(out, "--out")


def require_fits(out: Path, width: int, height: int) -> None:
    """Raise `InputError` if the format of `--out` has no pictures of this size in pixels."""
    ending = out.suffix.lower()
    most = MOST_PIXELS.get(ending)
    if most is not None and max(width, height) > most:
        raise InputError(
            f"--out {out}: {width}x{height} pixels: a {ending} has at most {most} pixels a side: "
            "write a .png, or draw fewer images"
        )


def write_picture(picture: Image.Image, out: Path) -> None:
    """Write a picture. Raises `InputError` if it is too large for the format."""
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=PICTURES[out.suffix.lower()])
    except (ValueError, OSError) as error:  # Pillow's encoders have different size limits
        raise InputError(
            f"--out {out}: {picture.width}x{picture.height} pixels: {one_line(str(error), 150)}: "
            "write a .png"
        ) from None
    replace_file(out, buffer.getvalue())
