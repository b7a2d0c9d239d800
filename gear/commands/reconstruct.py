"""`gear reconstruct`: images, their tokens, reconstructions and errors in one picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from gear.commands import image_files
from gear.core.errors import InputError
from gear.core.text import printable

TALLEST = 16_000  # pixels of a picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear reconstruct`."""
    image_files.add_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reconstruction.png"),
        help="the .png, .jpg or .webp to write (default reconstruction.png)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Draw the picture; return one line for each image.

    Raises:
        InputError: if an image or the checkpoint cannot be read, or there are too many.
    """
    import io

    import numpy as np

    from gear.core.files import replace_file, require_writable
    from gear.report.token_figure import sheet_height, token_sheet

    out: Path = arguments.out
    if out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise InputError(f"--out {out}: write a .png, .jpg or .webp")
    require_writable(out, "--out")
    files = image_files.find_images(arguments.images)
    tokenizer = image_files.open_tokenizer(arguments.checkpoint, arguments.size)
    assert tokenizer.size is not None
    if (height := sheet_height(len(files), tokenizer.size)) > TALLEST:
        raise InputError(
            f"{len(files)} images: their picture would be {height} pixels high, over {TALLEST}: "
            "draw fewer, or use `gear encode`"
        )
    originals = image_files.read_images(files, tokenizer.size)
    tokens = tokenizer.encode_pixels(originals)
    copies = np.stack([np.asarray(image) for image in tokenizer.decode(tokens)])
    names = [
        f"{printable(file.name)[:80]}: {len(set(row))} different tokens of {len(row)}, "
        f"{decibel(one, other)}"
        for file, row, one, other in zip(files, tokens.tolist(), originals, copies, strict=True)
    ]
    buffer = io.BytesIO()
    kind = out.suffix[1:].upper().replace("JPG", "JPEG")
    token_sheet(names, originals, tokens.numpy(), copies).save(buffer, format=kind)
    replace_file(out, buffer.getvalue())
    return "\n".join([*names, f"picture: {out}"])


def decibel(original: object, copy: object) -> str:
    """Return the peak signal-to-noise ratio of two images in words.

    >>> import numpy as np
    >>> decibel(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8))
    'PSNR 0.0 dB'
    """
    import numpy as np

    one, other = (np.asarray(image, dtype=np.float64) for image in (original, copy))
    error = float(((one - other) ** 2).mean())
    return f"PSNR {10 * np.log10(255.0**2 / error):.1f} dB" if error else "equal"
