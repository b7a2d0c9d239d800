"""`gear reconstruct`: draw images, tokens, reconstructions and errors in one picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from gear.commands import image_files
from gear.core.errors import InputError
from gear.core.text import printable

TALLEST = 16_000  # maximum height of a picture in pixels


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
    import numpy as np

    from gear.evaluation.reconstruction import peak_signal_to_noise
    from gear.report.token_figure import sheet_height, token_sheet

    out: Path = arguments.out
    image_files.require_picture(out)
    files = image_files.find_images(arguments.images)
    if out.resolve() in {file.resolve() for file in files}:
        raise InputError(f"--out {out}: it is one of the images: name another file")
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
    ratios = peak_signal_to_noise(copies, originals)
    names = [
        f"{printable(file.name)[:80]}: {len(set(row))} different tokens of {len(row)}, "
        f"PSNR {ratio:.1f} dB"
        for file, row, ratio in zip(files, tokens.tolist(), ratios, strict=True)
    ]
    image_files.write_picture(token_sheet(names, originals, tokens.numpy(), copies), out)
    return "\n".join([*names, f"picture: {out}"])
