"""`gear <stage>` and the commands beside the pipeline. Heavy imports wait until a stage runs, so that help answers at once."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gear.process import exit_with_dvc

if TYPE_CHECKING:
    from gear.params import Config

STAGES = {
    "ingest": "source images into Parquet shards",
    "validate": "gate the shards with Great Expectations",
    "features": "compute teacher features and text states",
    "reference": "compute the statistics that samples are compared with",
    "tokenizer": "warm up the VQ tokenizer",
    "joint": "train tokenizer and generator together",
    "generator": "train the generator on, tokenizer frozen",
    "sample": "draw images",
    "evaluate": "measure samples and reconstructions",
    "codebook": "codebook health and drift",
    "report": "one HTML page",
}
QUIET = {  # telemetry and network look-ups of every tool, off by default
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}


def keep_freed_memory() -> None:
    """Have glibc keep freed buffers instead of handing each back to the kernel and faulting it in again.

    Feature extraction on CPU runs three to four times as fast so (benchmarks/encoder.py). No effect on other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in (
            (-3, 1 << 30),
            (-1, 2**31 - 1),
            (-2, 1 << 26),
        ):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="gear",
        description="GEAR: guided end-to-end autoregression. Settings live in params.yaml.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for stage, text in STAGES.items():
        commands.add_parser(
            stage,
            help=text,
            description=f"Stage {stage}: {text}. Reads params.yaml; usually run by `dvc repro`.",
        )
    preset = commands.add_parser(
        "preset", help="write a preset to params.yaml and show what changed"
    )
    preset.add_argument(
        "name", nargs="?", help="a file of presets/, without .yaml; none lists them"
    )
    _add_generate(
        commands.add_parser("generate", help="draw images of a checkpoint into one picture")
    )
    took = commands.add_parser(
        "import", help="a public checkpoint (LlamaGen, IBQ, Open-MAGVIT2, GEAR) to a native folder"
    )
    took.add_argument(
        "file", type=Path, help="a .pt, .pth, .ckpt or .safetensors file; no code in it is executed"
    )
    took.add_argument("folder", type=Path, help="tokenizer/ or generator/ is written here")
    took.add_argument(
        "--heads",
        type=int,
        help="attention heads of a generator (default: width / 64, as published)",
    )
    took.add_argument(
        "--grid",
        type=int,
        default=16,
        help="tokens a side of a generator (default 16: 256 px at f 16)",
    )
    gave = commands.add_parser(
        "export", help="a native VQ tokenizer or generator to LlamaGen's layout"
    )
    gave.add_argument(
        "folder",
        type=Path,
        help="a folder with model.safetensors, such as data/models/generator/generator",
    )
    gave.add_argument("file", type=Path, help="the .pt file to write")
    plan = commands.add_parser(
        "plan", help="parameters, FLOPs, memory and hours of params.yaml at scale, without a GPU"
    )
    plan.add_argument("--preset", help="plan a preset in place of params.yaml")
    plan.add_argument("--gpus", type=_positive, default=8, help="GPUs (default 8)")
    plan.add_argument(
        "--tflops", type=float, default=150.0, help="sustained TFLOP/s a GPU (default 150)"
    )
    version = commands.add_parser(
        "dataset",
        help="a new version of the data: ingest, gate, drift from the last accepted one, verdict",
    )
    version.add_argument("--root", default="", help="where the source lies, in place of data.root")
    version.add_argument(
        "--accept",
        metavar="VERSION",
        help="accept a version that drifted and waits in data/quarantine",
    )
    _add_monitor(
        commands.add_parser(
            "monitor",
            help="measure the newest checkpoint of a training in progress, or of one that ended",
        )
    )
    beside = commands.add_parser(
        "compare", help="runs side by side, where they were measured under the same protocol"
    )
    beside.add_argument(
        "runs",
        nargs="+",
        metavar="run",
        help="an experiment, a git revision or `workspace`; the first is the baseline",
    )
    proof = commands.add_parser(
        "verify",
        help="whether a recorded run can be made again: hashes checked, stages run again in a clone",
    )
    proof.add_argument(
        "revision",
        nargs="?",
        help="a git revision or an experiment (default: HEAD, with nothing uncommitted)",
    )
    which = proof.add_mutually_exclusive_group()
    which.add_argument(
        "--stages",
        nargs="*",
        metavar="STAGE",
        help="stages to run again; none named: hashes only (default: no training)",
    )
    which.add_argument("--all", action="store_true", help="run every stage again, trainings too")
    proof.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        help="of metrics on hardware of another class (default 0.05)",
    )
    return top


def _add_monitor(watch: argparse.ArgumentParser) -> None:
    watch.add_argument(
        "--checkout",
        type=Path,
        default=Path(),
        help="where it trains, temporary experiments included (default: here)",
    )
    watch.add_argument(
        "--samples",
        type=_positive,
        default=512,
        help="images drawn for FD and coverage (default 512)",
    )
    watch.add_argument(
        "--images",
        type=_positive,
        default=2048,
        help="training images whose tokens are counted, at most (default 2048)",
    )
    watch.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    watch.add_argument(
        "--stop",
        action="store_true",
        help="ask training to stop where health.min_usage or health.min_perplexity is broken",
    )
    watch.add_argument("--result", type=Path, help="also write what was found to this JSON file")


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
    return int(text)


def _add_generate(draw: argparse.ArgumentParser) -> None:
    draw.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("data/models/generator"),
        help="folder of tokenizer/ and generator/",
    )
    draw.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="names or numbers (default: the first 16)",
    )
    draw.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="a caption, for a checkpoint of text-to-image; may be repeated",
    )
    draw.add_argument(
        "--each", type=_positive, default=8, help="images a class or prompt (default 8)"
    )
    draw.add_argument(
        "--seed", type=int, default=0, help="image i of a row is drawn with seed + i (default 0)"
    )
    draw.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="classifier-free guidance scale (default 1: none)",
    )
    draw.add_argument(
        "--interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar="SHARE",
        help="where in the sequence it holds",
    )
    draw.add_argument("--temperature", type=float, default=1.0)
    draw.add_argument(
        "--top-k", type=int, default=0, help="keep the k likeliest codes (default 0: all)"
    )
    draw.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="keep the likeliest codes up to this mass (default 1: all)",
    )
    draw.add_argument("--out", type=Path, required=True, help="the .png to write")


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0, 1 (failed), 2 (bad input) or 128 + a signal."""
    chosen = parser().parse_args(arguments)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from gear.core.errors import InputError, StageFailed

    try:
        if chosen.command in STAGES:
            from gear.params import load_for_stage

            config = load_for_stage(chosen.command)
            if config.host.threads:  # before torch and numpy are imported, which read it once
                os.environ["OMP_NUM_THREADS"] = str(config.host.threads)
            exit_with_dvc()
            keep_freed_memory()
            _timed(chosen.command, config)
        else:
            print(_command(chosen), flush=True)
        return 0
    except InputError as error:
        print(f"gear {chosen.command}: {error}", file=sys.stderr)
        return 2
    except StageFailed as error:
        print(f"gear {chosen.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _timed(stage: str, config: Config) -> None:
    """Run a stage and keep what it cost."""
    from gear.runs import costs

    started = time.monotonic()
    try:
        importlib.import_module(f"gear.stages.{stage}").run(config)
    except SystemExit:  # stopped by a signal with its state saved: the next run goes on from there
        costs.keep(stage, time.monotonic() - started, finished=False)
        raise
    costs.keep(stage, time.monotonic() - started, finished=True)


def _command(chosen: argparse.Namespace) -> str:
    """Run a command that is no stage; returns what to print."""
    from gear.core.settings import parse_section
    from gear.generator.config import SampleConfig
    from gear.params import load

    if chosen.command == "preset":
        from gear.params import apply_preset, list_presets

        return apply_preset(chosen.name) if chosen.name else list_presets()
    if chosen.command == "compare":
        from gear.commands.compare import compare

        return compare(chosen.runs)
    if chosen.command == "verify":
        from gear.runs.verify import verify

        return verify(
            chosen.revision, chosen.stages, everything=chosen.all, tolerance=chosen.tolerance
        )
    keep_freed_memory()
    if chosen.command == "generate":
        from gear.commands.generate import generate

        names = ("guidance", "interval", "temperature", "top_k", "top_p")
        settings = parse_section(
            SampleConfig,
            {"n": chosen.each} | {name: getattr(chosen, name) for name in names},
            "--",
        )
        return generate(
            chosen.checkpoint,
            chosen.classes,
            chosen.prompt,
            chosen.each,
            chosen.seed,
            settings,
            chosen.out,
        )
    if chosen.command == "monitor":
        from gear.commands.monitor import monitor

        names = ("samples", "images", "device", "stop", "result")
        return monitor(chosen.checkout, **{name: getattr(chosen, name) for name in names})
    if chosen.command == "plan":
        from gear.commands.estimate import plan
        from gear.params import load_preset

        return plan(
            load_preset(chosen.preset) if chosen.preset else load(),
            gpus=chosen.gpus,
            tflops=chosen.tflops,
        )
    if chosen.command == "dataset":
        from gear.commands.dataset import accept, check

        return accept(chosen.accept) if chosen.accept else check(load(), chosen.root)
    from gear.commands.convert import export_checkpoint, import_checkpoint

    if chosen.command == "import":
        return import_checkpoint(chosen.file, chosen.folder, heads=chosen.heads, grid=chosen.grid)
    return export_checkpoint(chosen.folder, chosen.file)
