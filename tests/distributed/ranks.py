"""Take joint steps with every quantizer and recipe under torchrun, and save losses and weights.

torchrun --standalone --nproc_per_node=N tests/distributed/ranks.py OUT [zero | captions FOLDER]

With `zero`, some of them run at every ZeRO stage. With `captions`, one runs with dropout on the
images, captions and text states of FOLDER.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from gear.data.shards import read_split
from gear.generator.conditioning import Condition
from gear.generator.conditions import conditions_for, empty_caption
from gear.generator.transformer import Generator
from gear.joint.alignment import Projector
from gear.joint.model import GuidedGenerator
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.losses.adversarial import PatchDiscriminator
from gear.nn.dropout import drawn_by_image
from gear.params import Config
from gear.tokenizer.model import Tokenizer
from gear.training.autoencoder import AutoencoderStep
from gear.training.batches import Batch, BatchLoader, batch_sampler
from gear.training.distributed import DistributedContext, join_process_group
from gear.training.engine import build_engine
from tests.support.settings import tiny_settings

STEPS, IMAGES, CLASSES, WIDTH = 3, 4, 3, 10
EPS = 1e-2  # large, so that Adam does not turn rounding of near-zero gradients into steps
ZERO_CASES = [("vq", "gear"), ("ibq", "ste")]
CASES = [
    (q, r) for q in ("vq", "lfq", "ibq") for r in ("gear", "ste", "continued", "llamagen_repa")
]


def settings(quantizer: str, zero_stage: int | None = None) -> Config:
    own = {"code_dim": 6, "z_channels": 6} if quantizer == "lfq" else {}
    return tiny_settings(
        host={"zero_stage": 1 if zero_stage is None else zero_stage},
        train={"bf16": False},
        generator={"dropout": 0.0, "class_dropout": 0.0},
        tokenizer={"quantizer": quantizer, **own},
        # for one quantizer only: this ratio of norms spreads rounding errors to all that follows
        loss={"adaptive": quantizer == "vq" and zero_stage is None},
        gan={"lecam": 0.1},
    )


def batch(config: Config, seed: int, world: DistributedContext) -> Batch:
    random = torch.Generator().manual_seed(seed)
    mine = slice(world.rank, None, world.size)
    images = torch.rand(IMAGES, 3, config.data.size, config.data.size, generator=random) * 2 - 1
    teacher = torch.randn(IMAGES, config.grid**2, WIDTH, generator=random)
    labels = torch.randint(CLASSES, (IMAGES,), generator=random)
    return Batch(images[mine], labels[mine], teacher[mine], ["x"] * len(images[mine]))


def caption_batches(
    config: Config, folder: Path, world: DistributedContext
) -> BatchLoader[Condition]:
    """Return batches of the images of `folder` with their captions, and random features."""
    split = read_split(folder)
    shape = (len(split), 1, config.grid**2, WIDTH)
    unmirrored = np.zeros(len(split), bool)
    return BatchLoader(
        split,
        batch_sampler(split, balance="natural", batch=IMAGES, seed=0, mirror=unmirrored),
        world,
        features=np.random.default_rng(0).standard_normal(shape).astype(np.float16),
        condition=conditions_for(split, "caption", folder),
    )


def run(
    quantizer: str,
    recipe: str,
    world: DistributedContext,
    zero_stage: int | None = None,
    captions: Path | None = None,
) -> dict[str, torch.Tensor]:
    config = settings(quantizer, zero_stage)
    loader, empty, shape = None, None, config.generator
    if captions is not None:
        loader = caption_batches(config, captions, world)
        empty = empty_caption("caption", captions)
        shape = shape.model_copy(update={"layers": 3, "dropout": 0.2, "class_dropout": 0.3})
    torch.manual_seed(1)
    generator = Generator(
        shape,
        codes=config.tokenizer.codes,
        grid=config.grid,
        classes=CLASSES if empty is None else 0,
        empty_caption=empty,
    )
    torch.nn.init.normal_(generator.output.weight, std=0.02)
    guided = GuidedGenerator(
        generator, Projector(config.generator.width, config.generator.projector_hidden, (WIDTH,))
    )
    tokenizer, discriminator = Tokenizer(config.tokenizer), PatchDiscriminator(8, 2)
    stage = config.host.zero_stage

    def engine(module: torch.nn.Module) -> Any:
        return build_engine(module, config.train, world, lr=1e-3, batch=IMAGES, zero_stage=stage)

    autoencoder = None
    if RECIPES[recipe].tokenizer_trains:
        autoencoder = AutoencoderStep(
            tokenizer,
            engine(tokenizer),
            config.loss,
            config.gan,
            bf16=False,
            discriminator_engine=engine(discriminator),
        )
    step = JointStep(
        RECIPES[recipe],
        config.joint,
        engine(guided),
        bf16=False,
        autoencoder=autoencoder,
        temperature=0.1,
    )
    for engine in step.engines.values():
        engine.optimizer.param_groups[0]["eps"] = EPS
    found: dict[str, torch.Tensor] = {}
    for number in range(STEPS):
        data = batch(config, number, world) if loader is None else loader(number)
        if autoencoder is None:
            with torch.no_grad():
                data = replace(data, tokens_BL=tokenizer.encode(data.images()).indices)
        with drawn_by_image(data.seeds):
            losses, _ = step(data, number)
        for name, value in losses.items():
            mean = value.clone()
            if world.size > 1:
                dist.all_reduce(mean)
                mean /= world.size
            found[f"{number}/{name}"] = mean
    for part, module in (
        (("tokenizer", tokenizer), ("guided", guided), ("discriminator", discriminator))
        if zero_stage is None
        else ()
    ):
        found |= {
            f"{part}/{name}": value.detach().clone() for name, value in module.state_dict().items()
        }
    return found


if __name__ == "__main__":
    world = join_process_group(settings("vq").host, seed=0)
    torch.use_deterministic_algorithms(True)
    if sys.argv[2:] == ["zero"]:
        results = {
            f"{q}-{r}-{stage}": run(q, r, world, stage) for q, r in ZERO_CASES for stage in range(4)
        }
    elif sys.argv[2:3] == ["captions"]:
        results = {"vq-gear-captions": run("vq", "gear", world, captions=Path(sys.argv[3]))}
    else:
        results = {f"{q}-{r}": run(q, r, world) for q, r in CASES}
    if world.is_rank_zero:
        torch.save(results, sys.argv[1])
