"""`gear <stage>` and `gear preset`. Heavy imports wait until a stage runs, so that help answers at once."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import sys

STAGES = {
    "ingest": "source images into Parquet shards",
    "validate": "gate the shards with Great Expectations",
    "features": "cache teacher features and reference statistics",
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
        for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 1 << 26)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="gear", description="GEAR: guided end-to-end autoregression. Settings live in params.yaml.")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for stage, text in STAGES.items():
        commands.add_parser(stage, help=text, description=f"Stage {stage}: {text}. Reads params.yaml; usually run by `dvc repro`.")
    preset = commands.add_parser("preset", help="write a preset to params.yaml and show what changed")
    preset.add_argument("name", nargs="?", help="a file of presets/, without .yaml; none lists them")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0, 1 (failed), 2 (bad input) or 128 + a signal."""
    chosen = parser().parse_args(arguments)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from gear.config import BadInput, StageFailed

    try:
        if chosen.command == "preset":
            from gear.presets import apply_preset, list_presets

            print(apply_preset(chosen.name) if chosen.name else list_presets())
            return 0
        from gear.config import load

        config = load()
        keep_freed_memory()
        importlib.import_module(f"gear.stages.{chosen.command}").run(config)
        return 0
    except BadInput as error:
        print(f"gear {chosen.command}: {error}", file=sys.stderr)
        return 2
    except StageFailed as error:
        print(f"gear {chosen.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
