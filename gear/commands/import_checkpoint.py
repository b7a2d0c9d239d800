"""`gear import`: convert a public checkpoint to a native folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from gear.commands.arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear import`."""
    parser.add_argument(
        "file",
        type=Path,
        help="a .pt, .pth, .ckpt or .safetensors file; no code in it is executed",
    )
    parser.add_argument("folder", type=Path, help="tokenizer/ or generator/ is written here")
    parser.add_argument(
        "--heads",
        type=positive,
        help="attention heads of a generator (default: those of the published model of "
        "the same width; needed for other widths)",
    )
    parser.add_argument(
        "--grid",
        type=positive,
        help="tokens a side of a generator (default 16: 256 px at f 16)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Import the file; return what was written."""
    from gear.commands.convert_checkpoint import import_checkpoint

    return import_checkpoint(
        arguments.file, arguments.folder, heads=arguments.heads, grid=arguments.grid
    )
