"""Time joint steps with and without `host.compile`: `python -m benchmarks.compiled`.

Both sides have the same weights and take turns. The first steps of the compiled side are not timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.run import BATCH, CLASSES, TEACHER, batch
from gear.encoders.efficientnet import build_encoder
from gear.generator.config import GeneratorShape
from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.losses.perceptual import EarlyFeaturesLoss
from gear.params import Config, load_preset
from gear.tokenizer.model import Tokenizer
from gear.training.autoencoder import AutoencoderStep
from gear.training.compiled import compile_parts
from gear.training.distributed import DistributedContext, join_process_group
from gear.training.engine import build_engine

WARM = 2  # steps of each side that are not timed: the compiled one compiles in them


def joint_step(config: Config, world: DistributedContext, *, compiled: bool) -> JointStep:
    """Return a joint step of the recipe `gear` on fresh models."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.tokenizer)
    shape = GeneratorShape.pick(config.generator.model_dump())
    generator = Generator(shape, codes=config.tokenizer.codes, grid=config.grid, classes=CLASSES)
    guided = GuidedGenerator(generator, Projector(shape.width, shape.projector_hidden, (TEACHER,)))

    def engine(module: torch.nn.Module) -> Any:
        if compiled:
            compile_parts(module)
        return build_engine(module, config.train, world, lr=1e-4, batch=BATCH)

    autoencoder = AutoencoderStep(
        tokenizer,
        engine(tokenizer.train()),
        config.loss,
        config.gan,
        bf16=config.train.bf16,
        perceptual=EarlyFeaturesLoss(build_encoder()),
    )
    return JointStep(
        RECIPES["gear"],
        config.joint,
        engine(guided),
        bf16=config.train.bf16,
        autoencoder=autoencoder,
        temperature=0.1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    config = load_preset(arguments.preset)
    world = join_process_group(config.host, 0)
    sides = [joint_step(config, world, compiled=compiled) for compiled in (False, True)]
    data = batch(config, config.data.size)
    seconds: list[list[float]] = [[], []]
    first = [0.0, 0.0]
    for turn in range(WARM + arguments.rounds):
        losses = []
        for number, side in enumerate(sides):
            torch.manual_seed(turn)
            began = time.perf_counter()
            losses.append(side(data, turn)[0])
            taken = time.perf_counter() - began
            if turn < WARM:
                first[number] += taken
            else:
                seconds[number].append(taken)
        if turn == 0:
            worst = max(abs(losses[0][k] - losses[1][k]).item() for k in losses[0])
            print(f"losses of the first step differ by at most {worst:.1e}", flush=True)
    eager, compiled = (statistics.median(times) for times in seconds)
    print(f"eager {BATCH / eager:.1f} images/s, compiled {BATCH / compiled:.1f} images/s: ", end="")
    print(f"{eager / compiled:.2f} times; {first[1] - first[0]:.0f} s of compiling")


if __name__ == "__main__":
    main()
