"""`gear dataset`: check a new version of the data."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear dataset`."""
    parser.add_argument("--root", default="", help="where the source lies, in place of data.root")
    parser.add_argument(
        "--accept",
        metavar="VERSION",
        help="accept a version that drifted and waits in data/quarantine",
    )


def run(arguments: argparse.Namespace) -> str:
    """Check the data, or accept a version; return the verdict."""
    from gear.core.memory import keep_freed_memory
    from gear.params import load
    from gear.validation.dataset_versions import accept, check

    if arguments.accept is not None:
        return accept(arguments.accept)
    keep_freed_memory()
    config = load()
    return check(config.data, arguments.root, config.host, config.run.seed)
