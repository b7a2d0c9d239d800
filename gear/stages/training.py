"""What the three training stages build and write alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import gear
from gear import paths
from gear.alignment.efficientnet import build_encoder
from gear.alignment.projector import Projector
from gear.config import Config, SampleConfig
from gear.data.pixels import BATCH, batches, in_turn
from gear.data.shards import Split
from gear.evaluation.frechet import frechet_distance, statistics
from gear.evaluation.models import decoded_features, tokens_of
from gear.generator.conditioning import Condition
from gear.generator.sampling import SEED_STRIDE, sample
from gear.generator.transformer import Generator
from gear.losses.adversarial import PatchDiscriminator
from gear.losses.reconstruction import EarlyFeaturesLoss, LpipsLoss
from gear.stages.conditions import Conditions, empty_caption
from gear.stages.files import read_json, replace_file, replace_folder
from gear.tokenizer.model import Tokenizer
from gear.training.checkpoints import load_weights, save_model
from gear.training.engines import Average, World, build_engine
from gear.training.loop import Probe
from gear.training.state import WorkFolder, fingerprint
from gear.training.step import GuidedGenerator

CODE = ("data", "text", "tokenizer", "generator", "alignment", "losses", "training")  # packages whose change makes it another run


def perceptual_loss(config: Config, world: World) -> EarlyFeaturesLoss | LpipsLoss | None:
    """LPIPS where its weights are named, else the packaged encoder's loss; None where its weight is 0."""
    if not config.loss.perceptual:
        return None
    loss = LpipsLoss(config.loss.vgg16) if config.loss.vgg16.path else EarlyFeaturesLoss(build_encoder())
    return loss.to(world.device)


def teacher_widths(folder: Path = paths.FEATURES) -> tuple[int, ...]:
    """Channels of each teacher in the cached features."""
    return tuple(read_json(folder / "teachers.json")["widths"])


def build_generator(config: Config, classes: int) -> Generator:
    """A fresh generator of the condition that `data.condition` names."""
    empty = empty_caption(config)
    shape: dict[str, Any] = {"classes": classes} if empty is None else {"empty_caption": empty}
    return Generator(config.generator, codes=config.tokenizer.codes, grid=config.grid, **shape)


def guided_generator(config: Config, classes: int, teachers: tuple[int, ...]) -> GuidedGenerator:
    """A fresh generator and projector."""
    generator = build_generator(config, classes)
    return GuidedGenerator(generator, Projector(config.generator.width, config.generator.projector_hidden, teachers))


def discriminator_for(
    config: Config, world: World, *, batch: int, last_step: int, saved: Path | None = None
) -> tuple[nn.Module | None, Any]:
    """A discriminator and its engine, or (None, None) where it never joins; `saved` continues an earlier one."""
    if config.gan.start_step >= last_step or not config.loss.adversarial:
        return None, None
    discriminator = PatchDiscriminator(config.gan.filters, config.gan.layers).to(world.device)
    if saved is not None and saved.exists():
        load_weights(discriminator, saved)
    return discriminator, build_engine(discriminator, config, world, lr=config.gan.lr, batch=batch)


def fd_probe(config: Config, world: World, tokenizer: Tokenizer, guided: GuidedGenerator, conditions: Conditions) -> Probe | None:
    """FD of `joint.fd_n` fresh samples of the averaged weights, drawn with the run's seed; None where `joint.fd_every` is 0.

    Their conditions are balanced classes, or training captions. The tokenizer's average is used where it trains, else
    the tokenizer as it is. Its N differs from the evaluation's, so the curve shows a course, not the headline's value.
    """
    if not config.joint.fd_every or not world.lead:
        return None
    encoder, reference = build_encoder().to(world.device), np.load(paths.FEATURES / "reference.npz")
    classes, count = guided.generator.classes, config.joint.fd_n
    drawer = build_generator(config, classes).to(world.device).eval()
    decoder = Tokenizer(config.tokenizer).to(world.device).eval()  # whole copies: under ZeRO-3 the trained ones are in parts
    rows = in_turn(count, len(reference["features"]))
    plain = SampleConfig(n=count, batch=BATCH, guidance=1.0, temperature=1.0)
    seeds = config.run.seed * SEED_STRIDE + np.arange(count)

    def given(part: slice) -> Condition:
        drawn = np.arange(part.start, part.stop)
        return torch.from_numpy(drawn % classes) if classes else conditions(rows[drawn])

    def measure(averages: dict[str, Average]) -> dict[str, float]:
        weights = averages["guided"].weights
        drawer.load_state_dict({name: weights[f"generator.{name}"] for name in drawer.state_dict()})
        decoder.load_state_dict(averages["tokenizer"].weights if "tokenizer" in averages else tokenizer.state_dict())
        tokens = torch.cat([sample(drawer, given(p), seeds[p], plain) for p in batches(count)])
        features = decoded_features(encoder, decoder, tokens.cpu().numpy(), config.evaluate.input_size)
        return {"fd": frechet_distance(*statistics(features), reference["mean"], reference["cov"])}

    return Probe(config.joint.fd_every, measure)


def cached_tokens(config: Config, world: World, tokenizer: Tokenizer, folder: Path, split: Split) -> np.ndarray:
    """Tokens of the training split by the frozen tokenizer in `folder`, (N, views, L), encoded once.

    The file is named by the contents it follows from; ranks encode their shares of it. Mirroring is the only augmentation, so
    two views hold everything a training can ask for.
    """
    views = (False, True) if config.data.flip else (False,)
    name = fingerprint({"views": len(views), "device": world.device.type}, [paths.SHARDS, folder / "model.safetensors"])
    file = paths.WORK / "tokens" / f"{name}.npy"
    if not file.exists():
        draft = file.with_suffix(".partial")
        if world.lead:
            file.parent.mkdir(parents=True, exist_ok=True)
            shape, dtype = (len(split), len(views), config.grid**2), np.uint16 if config.tokenizer.codes <= 65536 else np.int32
            np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=shape).flush()
        dist.barrier()
        cache = np.load(draft, mmap_mode="r+")
        for part in list(batches(len(split)))[world.rank :: world.size]:
            pixels = split[part]
            for view, mirrored in enumerate(views):
                cache[part, view] = tokens_of(tokenizer, np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels)
        cache.flush()
        dist.barrier()
        if world.lead:
            draft.replace(file)
    dist.barrier()
    return np.load(file, mmap_mode="r")


def open_work(stage: str, config: Config, world: World, sections: list[str], inputs: list[Path]) -> WorkFolder:
    """The resumable-state folder of this run, named by its params, inputs and code."""
    params = {name: config.model_dump(mode="json")[name] for name in sections}
    params |= {"world": world.size, "data": [config.data.flip, config.data.condition]}
    code = Path(gear.__file__).parent
    name = fingerprint(params, [*inputs, *(code / part for part in CODE)])
    work = WorkFolder(paths.STATES / stage / name, world)
    if world.lead:  # whoever reads its states can build the models without this params.yaml
        settings = {"root": str(Path.cwd()), "config": config.model_dump(mode="json")}
        replace_file(work.folder / "settings.json", (json.dumps(settings, indent=2) + "\n").encode())
    return work


def write_models(
    folder: Path,
    config: Config,
    world: World,
    rows: list[dict[str, float]],
    *,
    tokenizer: dict[str, torch.Tensor],
    guided: dict[str, torch.Tensor] | None = None,
    discriminator: nn.Module | None = None,
    classes: list[str] | None = None,
    temperature: float | None = None,
) -> None:
    """Write a training stage's output folder at once: models and the logged curve."""
    settings = config.model_dump(mode="json")

    def fill(draft: Path) -> None:
        save_model(draft / "tokenizer", tokenizer, {"tokenizer": settings["tokenizer"], "temperature": temperature})
        if guided is not None:
            shape = {"generator": settings["generator"], "codes": config.tokenizer.codes, "grid": config.grid}
            shape |= {"condition": settings["data"]["condition"], "text": settings["text"]}
            shape |= {"classes": len(classes or []), "class_names": classes or []}
            for part in ("generator", "projector"):
                own = {k.removeprefix(f"{part}."): v for k, v in guided.items() if k.startswith(f"{part}.")}
                save_model(draft / part, own, shape)
        if discriminator is not None:
            save_model(draft / "discriminator", discriminator.state_dict(), {"gan": settings["gan"]})
        (draft / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    if world.lead:
        replace_folder(folder, fill)
