"""`gear encode`: write the token indices of images to a NumPy file."""

from __future__ import annotations

import argparse
from pathlib import Path

from gear.commands import image_files
from gear.core.errors import InputError

READ = 2**24  # maximum pixels that are read at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear encode`."""
    image_files.add_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("tokens.npz"),
        help="the .npz to write: tokens (N, L) int32 in raster order, and the files' names "
        "(default tokens.npz)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Encode the images; return what was written.

    Raises:
        InputError: if an image or the checkpoint cannot be read.
    """
    import io

    import numpy as np

    from gear.core.files import replace_file, require_writable

    out: Path = arguments.out
    if out.suffix.lower() != ".npz":
        raise InputError(f"--out {out}: write an .npz")
    require_writable(out, "--out")
    files = image_files.find_images(arguments.images)
    tokenizer = image_files.open_tokenizer(arguments.checkpoint, arguments.size)
    assert tokenizer.size is not None
    parts = []
    most = max(1, READ // tokenizer.size**2)
    for start in range(0, len(files), most):
        some = files[start : start + most]
        parts.append(tokenizer.encode_pixels(image_files.read_images(some, tokenizer.size)).numpy())
        if len(files) > most:
            print(f"encoded {start + len(some)}/{len(files)}", flush=True)
    tokens = np.concatenate(parts).astype(np.int32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, tokens=tokens, names=np.array([str(file) for file in files]))
    replace_file(out, buffer.getvalue())
    used = len(np.unique(tokens))
    return (
        f"{out}: {tokens.shape[0]} images of {tokens.shape[1]} tokens, "
        f"{used} of {tokenizer.model.config.codes} codes in use"
    )
