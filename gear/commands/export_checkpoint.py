"""`gear export`: convert a native checkpoint to LlamaGen's layout."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear export`."""
    parser.add_argument(
        "folder",
        type=Path,
        help="a folder with model.safetensors, such as data/models/generator/generator",
    )
    parser.add_argument("file", type=Path, help="the .pt file to write")


def run(arguments: argparse.Namespace) -> str:
    """Export the folder; return what was written."""
    from gear.commands.convert_checkpoint import export_checkpoint

    return export_checkpoint(arguments.folder, arguments.file)
