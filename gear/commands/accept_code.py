"""`gear accept-code`: update dvc.lock for code edits that change no result."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear accept-code`."""
    parser.add_argument("--all", action="store_true", help="run edited trainings again too")
    parser.add_argument(
        "--unproved",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="take over the code of these stages without running them",
    )


def run(arguments: argparse.Namespace) -> str:
    """Return which stages ran again with the same outputs, in one line."""
    from gear.runs.accept_code import accept_code

    return accept_code(arguments.unproved, everything=arguments.all)
