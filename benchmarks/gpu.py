"""Time the joint step of presets on one GPU: images a second, share of the peak, memory.

    python -m benchmarks.gpu --peak 989 [--preset imagenet256-b ...] [--micro-batch 32] [--steps 10]
        [--compile]

Images, tokens and teacher features are random, so loader and teacher are not timed. The printed
TFLOP/s is the value for `gear plan --tflops`. `--peak` is the GPU's dense bf16 TFLOP/s by its data
sheet.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from gear.commands.estimate import GIB, measure
from gear.core.device import pick_device
from gear.core.errors import InputError
from gear.encoders.efficientnet import build_encoder
from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.losses.perceptual import EarlyFeaturesLoss
from gear.params import Config, load_preset
from gear.tokenizer.model import Tokenizer
from gear.training.autoencoder import AutoencoderStep
from gear.training.batches import Batch
from gear.training.compiled import compile_parts
from gear.training.distributed import join_process_group
from gear.training.ema import EMA
from gear.training.engine import build_engine

PRESETS = ("imagenet256-b", "imagenet256-l", "imagenet256-xl")
CLASSES, TEACHER = 1000, 768
WARM = 3  # steps before the first that is timed


def time_preset(
    config: Config, size: int, steps: int, *, compiled: bool = False
) -> tuple[float, float]:
    """Return the median seconds of a joint step of `size` images, and the peak memory in GiB."""
    device = pick_device(config.host)
    world = join_process_group(config.host, 0)
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.tokenizer).to(device)
    generator = Generator(
        config.generator, codes=config.tokenizer.codes, grid=config.grid, classes=CLASSES
    )
    projector = Projector(config.generator.width, config.generator.projector_hidden, (TEACHER,))
    guided = GuidedGenerator(generator, projector).to(device)
    if compiled:
        compile_parts(tokenizer)
        compile_parts(guided)
    own = build_engine(guided, config.train, world, lr=1e-4, batch=size)
    autoencoder = AutoencoderStep(
        tokenizer,
        build_engine(tokenizer, config.train, world, lr=1e-4, batch=size),
        config.loss,
        config.gan,
        bf16=config.train.bf16,
        perceptual=EarlyFeaturesLoss(build_encoder().to(device)),
    )
    recipe = RECIPES[config.joint.recipe]
    step = JointStep(
        recipe,
        config.joint,
        own,
        bf16=config.train.bf16,
        autoencoder=autoencoder,
        temperature=0.1,
    )
    averages = [EMA(tokenizer, config.train.ema), EMA(guided, config.train.ema)]
    random = torch.Generator().manual_seed(0)
    side = config.data.size
    batch = Batch(
        (torch.rand(size, 3, side, side, generator=random) * 2 - 1).to(device),
        (torch.arange(size) % CLASSES).to(device),
        torch.randn(size, config.grid**2, TEACHER, generator=random).to(device),
        [str(i) for i in range(size)],
        None,
        tuple(range(size)),
    )
    seconds = []
    for number in range(WARM + steps):
        _wait(device)
        began = time.perf_counter()
        step(batch, number)
        for average in averages:
            average.update()
        _wait(device)
        if number >= WARM:
            seconds.append(time.perf_counter() - began)
    most = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
    return statistics.median(seconds), most


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", nargs="+", default=PRESETS)
    parser.add_argument("--micro-batch", type=int, default=32, help="images a step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak", type=float, required=True, help="dense bf16 TFLOP/s of the GPU")
    parser.add_argument("--compile", action="store_true", help="as host.compile does")
    options = parser.parse_args()
    print("| preset | images a step | images/s | TFLOP/s | of the peak | memory, GiB |")
    print("|---|---|---|---|---|---|")
    for name in options.preset:
        config = load_preset(name)
        # the steps come before `gan.start_step`: they have no discriminator
        parts = [part for part in measure(config) if part.name != "discriminator"]
        flops = sum(part.flops for part in parts) * options.micro_batch
        try:
            seconds, most = time_preset(
                config, options.micro_batch, options.steps, compiled=options.compile
            )
        except torch.OutOfMemoryError:
            raise InputError(f"{name}: {options.micro_batch} images do not fit") from None
        rate = flops / seconds / 1e12
        print(
            f"| {name} | {options.micro_batch} | {options.micro_batch / seconds:.1f} | {rate:.1f} "
            f"| {rate / options.peak:.0%} | {most:.1f} |",
            flush=True,
        )
        torch.cuda.empty_cache()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
