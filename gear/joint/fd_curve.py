"""FD of fresh samples during training."""

from __future__ import annotations

import numpy as np
import torch

from gear import paths
from gear.data.rows import batches, round_robin
from gear.encoders.efficientnet import build_encoder
from gear.evaluation.feature_reference import load_feature_reference
from gear.evaluation.sample_quality import decoded_features
from gear.generator.conditioning import Condition
from gear.generator.conditions import Conditions
from gear.generator.config import SampleConfig
from gear.generator.sampling import sample, sample_seeds
from gear.joint.model import GuidedGenerator, build_generator
from gear.params import Config
from gear.tokenizer.model import Tokenizer
from gear.training.distributed import DistributedContext
from gear.training.ema import EMA
from gear.training.loop import EvalHook


def fd_probe(
    config: Config,
    world: DistributedContext,
    tokenizer: Tokenizer,
    guided: GuidedGenerator,
    conditions: Conditions,
) -> EvalHook | None:
    """FD of `joint.fd_n` fresh samples of the averaged weights, drawn with the run's seed; None where `joint.fd_every` is 0.

    Their conditions are balanced classes, or training captions. The tokenizer's average is used where it trains, else
    the tokenizer as it is. Its N differs from the evaluation's, so the curve shows a course, not the headline's value.
    """
    if not config.joint.fd_every or not world.is_rank_zero:
        return None
    encoder = build_encoder().to(world.device)
    reference = load_feature_reference(paths.REFERENCE)
    classes, count = guided.generator.classes, config.joint.fd_n
    drawer = build_generator(config, classes).to(world.device).eval()
    decoder = (
        Tokenizer(tokenizer.config).to(world.device).eval()
    )  # whole copies: under ZeRO-3 the trained ones are in parts
    rows = round_robin(count, len(reference.features))
    plain = SampleConfig(n=count)
    seeds = sample_seeds(config.run.seed, count)

    def given(part: slice) -> Condition:
        drawn = np.arange(part.start, part.stop)
        return torch.from_numpy(drawn % classes) if classes else conditions(rows[drawn])

    def measure(averages: dict[str, EMA]) -> dict[str, float]:
        weights = averages["guided"].weights
        drawer.load_state_dict({name: weights[f"generator.{name}"] for name in drawer.state_dict()})
        decoder.load_state_dict(
            averages["tokenizer"].weights if "tokenizer" in averages else tokenizer.state_dict()
        )
        tokens = torch.cat([sample(drawer, given(p), seeds[p], plain) for p in batches(count)])
        features = decoded_features(encoder, decoder, tokens.cpu().numpy(), reference.input_size)
        return {"fd": reference.fd(features)}

    return EvalHook(config.joint.fd_every, measure)
