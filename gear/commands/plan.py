"""`gear plan`: estimate what params.yaml costs at scale."""

from __future__ import annotations

import argparse

from gear import paths
from gear.commands.arguments import number, positive

IMAGENET = 1_281_167  # training images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear plan`."""
    parser.add_argument("--preset", help="plan a preset in place of params.yaml")
    parser.add_argument("--gpus", type=positive, default=8, help="GPUs (default 8)")
    parser.add_argument(
        "--tflops",
        type=number(0.001, 1e6),
        default=150.0,
        help="sustained TFLOP/s a GPU (default 150)",
    )
    parser.add_argument(
        "--memory", type=number(1, 1e5), default=80.0, help="memory of a GPU, GiB (default 80)"
    )
    parser.add_argument(
        "--images",
        type=positive,
        help=f"training images (default: those of {paths.SHARDS}, else {IMAGENET}, ImageNet)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Return the plan as tables."""
    from gear.commands.plan_table import plan
    from gear.data.shards import load_manifest
    from gear.params import load, load_preset

    config = load_preset(arguments.preset) if arguments.preset else load()
    images, source = arguments.images, "--images"
    if images is None:
        images, source = IMAGENET, "as many as ImageNet has: --images N for another number"
        if not arguments.preset and (paths.SHARDS / "manifest.json").exists():
            images, source = load_manifest(paths.SHARDS)["train"], str(paths.SHARDS)
    return plan(
        config,
        gpus=arguments.gpus,
        tflops=arguments.tflops,
        memory=arguments.memory,
        images=images,
        source=source,
    )
