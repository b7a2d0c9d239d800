"""FD of fresh samples during training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gear.data.row_selection import batches, round_robin
from gear.encoders.efficientnet import build_encoder
from gear.evaluation.efficientnet_reference import load_feature_reference
from gear.evaluation.sample_quality import decoded_features
from gear.generator.conditioning import Condition
from gear.generator.conditions import Conditions
from gear.generator.config import SampleConfig
from gear.generator.sampling import sample, sample_seeds
from gear.generator.transformer import Generator
from gear.joint.config import JointConfig
from gear.tokenizer.model import Tokenizer
from gear.training.ema import EMA
from gear.training.loop import EvalHook
from gear.training.run import TrainingRun


def fd_hook(
    run: TrainingRun,
    joint: JointConfig,
    reference: Path,
    *,
    tokenizer: Tokenizer,
    new_generator: Callable[[], Generator],
    conditions: Conditions,
) -> EvalHook | None:
    """Return a hook that measures FD of `joint.fd_n` fresh samples of the averaged weights.

    Samples are drawn with the run's seed, for balanced classes or for training captions. The
    tokenizer's average is used if it trains, else the tokenizer as it is. The number of samples
    differs from the evaluation's, so the curve shows a course, not the headline's value.

    Args:
        run: The training.
        joint: How often to measure, and with how many samples.
        reference: Folder of the features of the training images.
        tokenizer: The tokenizer that is trained, or frozen.
        new_generator: Builds a generator of the trained one's shape.
        conditions: Conditions of the training split.

    Returns:
        The hook; None on other ranks than zero and if `joint.fd_every` is 0.
    """
    if not joint.fd_every or not run.context.is_rank_zero:
        return None
    encoder = build_encoder().to(run.device)
    real = load_feature_reference(reference)
    # whole copies: under ZeRO-3 the trained modules hold their weights in parts
    generator = new_generator().to(run.device).eval()
    decoder = Tokenizer(tokenizer.config).to(run.device).eval()
    rows = round_robin(joint.fd_n, len(real.features))
    settings = SampleConfig(n=joint.fd_n)
    seeds = sample_seeds(run.settings.run.seed, joint.fd_n)

    def conditions_of(part: slice) -> Condition:
        positions = np.arange(part.start, part.stop)
        if generator.classes:
            return torch.from_numpy(positions % generator.classes)
        return conditions(rows[positions])

    def measure(averages: dict[str, EMA]) -> dict[str, float]:
        weights = averages["guided"].weights
        generator.load_state_dict(
            {name: weights[f"generator.{name}"] for name in generator.state_dict()}
        )
        decoder.load_state_dict(
            averages["tokenizer"].weights if "tokenizer" in averages else tokenizer.state_dict()
        )
        tokens = torch.cat(
            [
                sample(generator, conditions_of(part), seeds[part], settings)
                for part in batches(joint.fd_n)
            ]
        )
        features = decoded_features(encoder, decoder, tokens.cpu().numpy(), real.input_size)
        return {"fd": real.fd(features)}

    return EvalHook(joint.fd_every, measure)
