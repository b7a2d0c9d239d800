"""Command line of GEAR: `gear <stage>` and the commands outside the pipeline.

Only the module of the called command is imported, so that `gear --help` is fast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import gear
from gear import DISTRIBUTION as DISTRIBUTION
from gear import launch, paths
from gear.core import exit_codes, portable
from gear.core.errors import InputError, StageFailed
from gear.core.files import allow_many_open_files
from gear.core.text import one_line, printable
from gear.process import exit_with, exit_with_dvc

STAGES = {
    "ingest": "source images into Parquet shards",
    "validate": "gate the shards with Great Expectations",
    "features": "compute teacher features and text states",
    "reference": "compute the statistics that samples are compared with",
    "tokenizer": "train the tokenizer alone (warm-up)",
    "joint": "train tokenizer and generator together",
    "generator": "train the generator on, tokenizer frozen",
    "sample": "draw images",
    "reconstruction": "measure reconstructions and the likelihood of real images",
    "evaluate": "measure samples",
    "codebook": "codebook health and drift",
    "report": "one HTML page",
}
COMMANDS = {  # module of gear.commands, help
    "init": ("init", "create a project for your images, with settings that fit them"),
    "preset": ("preset", "write a preset to params.yaml and show what changed"),
    "states": ("states", "list the resumable states of trainings; `prune` deletes old ones"),
    "generate": ("generate", "draw images of a checkpoint into one picture"),
    "reconstruct": (
        "reconstruct",
        "draw your images, their tokens, reconstructions and errors into one picture",
    ),
    "encode": ("encode", "write the token indices of images to a NumPy file"),
    "publish": (
        "publish",
        "write a run's models with a model card to a folder or the Hugging Face Hub",
    ),
    "import": (
        "import_checkpoint",
        "convert a public checkpoint (LlamaGen, IBQ, Open-MAGVIT2, GEAR) to a native folder",
    ),
    "export": (
        "export_checkpoint",
        "convert a native VQ tokenizer or generator to LlamaGen's layout",
    ),
    "doctor": ("doctor", "check what this machine and checkout have and lack for a run"),
    "plan": (
        "plan",
        "estimate parameters, FLOPs, memory and hours of params.yaml, without a GPU",
    ),
    "dataset": (
        "dataset",
        "check a new version of the data: ingest, gate, drift from the last accepted one",
    ),
    "monitor": (
        "monitor",
        "measure the newest checkpoint of a training in progress, or of one that ended",
    ),
    "watch": (
        "watch",
        "a page in the browser that follows a run: time left, curves, samples",
    ),
    "compare": ("compare", "runs side by side, where they were measured under the same protocol"),
    "study": (
        "study",
        "run arms x seeds of a study file as experiments; one page says which claims hold",
    ),
    "accept-code": ("accept_code", "take over edits of code that change no result, in dvc.lock"),
    "verify": (
        "verify",
        "whether a recorded run can be made again: hashes checked, stages run again in a clone",
    ),
}
COMPUTING = frozenset(STAGES) - {"ingest", "validate"}  # stages that use torch
SHARED = COMPUTING - {"report"}  # stages whose work several ranks share
SPINS = "10000"  # iterations a thread spins at a barrier before it sleeps (docs/performance.md)
OFFLINE = "HF_HUB_OFFLINE"
OF_THE_HUB = frozenset({"generate", "reconstruct", "encode", "publish"})  # commands that may use it
QUIET = {  # telemetry and network look-ups of every tool, off by default
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    OFFLINE: "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_ERROR_REPORTING": "false",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code (see `gear.core.exit_codes`)."""
    words = sys.argv[1:] if arguments is None else arguments
    command = words[0] if words else ""
    for name, value in QUIET.items():
        if name != OFFLINE or command not in OF_THE_HUB:
            os.environ.setdefault(name, value)

    def body() -> None:
        allow_many_open_files()
        parsed, unknown = parser(command).parse_known_args(words)
        if unknown:
            raise InputError(f"unknown argument {unknown[0]!r} (`gear {command} --help`)")
        if command in STAGES:
            start_from = getattr(parsed, "start_from", None)
            run_stage(command, {"start_from": start_from} if start_from else {})
        else:
            text = _module(command).run(parsed)
            print("\n".join(map(printable, text.split("\n"))), flush=True)

    return exit_codes.run(f"gear {command}".strip(), body, paths.LOGS)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and how to get help; exit with code 2."""
        self.exit(2, f"{self.prog}: {one_line(message)} (`{self.prog} --help`)\n")


def parser(command: str) -> Parser:
    """Return the parser of all commands, with the arguments of only the given one."""
    top = Parser(
        prog="gear",
        description="GEAR: guided end-to-end autoregression. Settings live in params.yaml.",
    )
    top.add_argument("--version", action="version", version=f"gear {version()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in STAGES.items():
        description = f"Stage {name}: {text}. Reads params.yaml; usually run by `dvc repro`."
        stage = commands.add_parser(name, help=text, description=description)
        if name in paths.TRAININGS:
            stage.add_argument(
                "--from",
                dest="start_from",
                type=Path,
                metavar="STATE",
                help="start from another training's state, a folder that `gear states` lists",
            )
    for name, (_, text) in COMMANDS.items():
        inner = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == command:
            _module(name).add_arguments(inner)
    return top


def run_stage(stage: str, options: dict[str, Path]) -> None:
    """Run a stage with the settings that dvc.yaml declares for it, and record what it cost.

    options: keyword arguments for the `run` function of the stage.
    """
    from gear.commands.project import require_commit, require_locked_code
    from gear.params import load_for_stage, require_inputs

    require_locked_code()
    require_commit()
    config = load_for_stage(stage)
    require_inputs(stage)
    if "OMP_WAIT_POLICY" not in os.environ:  # waiting threads soon yield to other processes
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if config.host.threads:  # before torch and numpy are imported, which read it once
        os.environ["OMP_NUM_THREADS"] = str(config.host.threads)
    is_portable = stage in COMPUTING and config.train.portable
    if is_portable:
        portable.hold_instruction_set()
    starts_ranks = stage in SHARED and not launch.is_rank()
    if starts_ranks:
        launch.claim_gpus(config.host)
    if starts_ranks and (ranks := launch.ranks_here(config.host)) > 1:
        exit_with_dvc()
        launch.run_ranks([stage, *(f"--from={path}" for path in options.values())], ranks)
        return
    _end_with_who_started_this()
    from gear.core.memory import keep_freed_memory
    from gear.core.ranks import leave_ranks
    from gear.runs import costs

    keep_freed_memory()
    if is_portable:
        portable.round_square_roots()
    try:
        with costs.recorded(stage):
            importlib.import_module(f"gear.stages.{stage}").run(config, **options)
        if stage in SHARED:
            leave_ranks()
        if stage == "report":
            costs.note_ranks(paths.PROVENANCE)
        _say_what_is_left(stage)
    except (InputError, StageFailed):
        raise
    except Exception as error:
        blamed = _blamed_on_inputs(stage, error)
        if blamed is error:
            raise
        raise blamed from error


def _blamed_on_inputs(stage: str, error: Exception) -> Exception:
    """Return an error that names the missing or changed input behind `error`; else `error`."""
    from gear.runs import revision

    name = str(getattr(error, "filename", None) or "")
    if isinstance(error, FileNotFoundError) and name.startswith(("data/", "reports/")):
        return InputError(f"{name}: no such file: `dvc repro {stage}` makes it first")
    if changed := revision.changed_inputs(stage):
        return InputError(
            f"{changed} is not what dvc.lock records, it was edited or damaged "
            f"({type(error).__name__}: {error}): `dvc repro {stage}` makes it anew"
        )
    return error


def _say_what_is_left(stage: str) -> None:
    """Print the estimated time of the remaining stages, if DVC runs the pipeline."""
    from gear.runs.progress import left_after

    if os.environ.get("RANK", "0") != "0":
        return
    with suppress(InputError, BrokenPipeError):
        left = left_after(stage)
        if left is not None:
            print(f"{stage}: done. Pipeline: {left}", flush=True)


def _end_with_who_started_this() -> None:
    """Terminate this process when DVC or the launcher of its ranks exits."""
    exit_with_dvc()
    if launcher := os.environ.get(launch.LAUNCHER):
        exit_with(int(launcher))


def version() -> str:
    """Return the version of the installed distribution; "unknown" if there is none."""
    found: str = gear.__version__
    return found


def _module(command: str) -> Any:
    return importlib.import_module(f"gear.commands.{COMMANDS[command][0]}")
