"""`gear verify`: check whether a recorded run can be reproduced."""

from __future__ import annotations

import argparse

from gear.commands.arguments import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear verify`."""
    parser.add_argument(
        "revision",
        nargs="?",
        help="a git revision or an experiment (default: HEAD, with nothing uncommitted)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--stages",
        nargs="*",
        metavar="STAGE",
        help="stages to run again; none named: hashes only (default: no training)",
    )
    which.add_argument("--all", action="store_true", help="run every stage again, trainings too")
    parser.add_argument(
        "--tolerance",
        type=number(0, 1),
        default=0.05,
        help="of metrics on hardware of another class (default 0.05)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Print the table of checks; return the verdict."""
    from gear.runs.verify import verify

    return verify(
        arguments.revision,
        arguments.stages,
        everything=arguments.all,
        tolerance=arguments.tolerance,
    )
