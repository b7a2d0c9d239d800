"""`gear preset`: write a preset to params.yaml."""

from __future__ import annotations

import argparse

from gear.params import apply_preset, list_presets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear preset`."""
    parser.add_argument(
        "name", nargs="?", help="a file of presets/, without .yaml; none lists them"
    )


def run(arguments: argparse.Namespace) -> str:
    """Write the preset; return the settings that changed, or the names of all presets."""
    return list_presets() if arguments.name is None else apply_preset(arguments.name)
