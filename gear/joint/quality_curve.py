"""FD of fresh samples, and scores on validation images, during training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gear.core.files import read_json
from gear.data.row_selection import batches, round_robin
from gear.encoders.efficientnet import build_encoder
from gear.evaluation.efficientnet_reference import load_feature_reference
from gear.evaluation.sample_quality import decoded_features
from gear.generator.conditioning import Condition
from gear.generator.conditions import Conditions
from gear.generator.config import SampleConfig
from gear.generator.sampling import SEED_STRIDE, sample, sample_seeds
from gear.joint.config import JointConfig
from gear.joint.guidance_gradient import IMAGES, GradientProbe
from gear.joint.model import GuidedGenerator
from gear.joint.validation_curve import ValidationSet, validation_scores
from gear.tokenizer.model import Tokenizer
from gear.training.ema import EMA
from gear.training.loop import EvalHook
from gear.training.run import TrainingRun


def quality_hook(
    run: TrainingRun,
    joint: JointConfig,
    reference: Path,
    *,
    tokenizer: Tokenizer,
    new_guided: Callable[[], GuidedGenerator],
    conditions: Conditions,
    validation: ValidationSet,
    gradient: GradientProbe | None = None,
) -> EvalHook | None:
    """Return a hook that measures averaged weights every `joint.fd_every` steps.

    It measures FD of `joint.fd_n` fresh samples, drawn with the run's seed for balanced classes or
    for training captions, and the scores of validation images. The tokenizer's average is used if
    it trains, else the tokenizer as it is. The number of samples differs from the evaluation's, so
    the curve shows a course, not the headline's value.

    Args:
        run: The training.
        joint: How often to measure, and with how many samples.
        reference: Folder of the features of the training images.
        tokenizer: The tokenizer that is trained, or frozen.
        new_guided: Builds a generator and projector of the trained ones' shape.
        conditions: Conditions of the training split.
        validation: The validation images.
        gradient: Measures the gradient of guidance, if there is guidance.

    Returns:
        The hook, which all ranks have to call, since they share the work; None if
        `joint.fd_every` is 0.
    """
    if not joint.fd_every:
        return None
    ranks = run.context
    encoder = build_encoder().to(run.device)
    real = load_feature_reference(reference)
    # whole copies: under ZeRO-3 the trained modules hold their weights in parts
    guided = new_guided().to(run.device).eval()
    generator = guided.generator
    decoder = Tokenizer(tokenizer.config).to(run.device).eval()
    rows = round_robin(joint.fd_n, len(real.features))
    settings = SampleConfig(n=joint.fd_n)
    seeds = sample_seeds(run.settings.run.seed, joint.fd_n)

    def conditions_of(part: slice) -> Condition:
        positions = np.arange(part.start, part.stop)
        if generator.classes:
            return torch.from_numpy(positions % generator.classes)
        return conditions(rows[positions])

    def draw_part(part: slice) -> np.ndarray:
        return sample(generator, conditions_of(part), seeds[part], settings).cpu().numpy()

    def measure(averages: dict[str, EMA]) -> dict[str, float]:
        guided.load_state_dict(averages["guided"].weights)
        decoder.load_state_dict(
            averages["tokenizer"].weights if "tokenizer" in averages else tokenizer.state_dict()
        )
        tokens = np.concatenate(list(ranks.map(draw_part, batches(joint.fd_n))))
        features = decoded_features(encoder, decoder, tokens, real.input_size, ranks)
        return {
            "fd": real.fd(features),
            **validation_scores(guided, decoder, validation, ranks),
            **(gradient(guided, decoder) if gradient is not None else {}),
        }

    protocol = {
        "fd": {
            **read_json(reference / "protocol.json"),
            "n": joint.fd_n,
            "condition": "balanced class: i mod classes"
            if generator.classes
            else "training captions, evenly spaced",
            "seeds": f"{run.settings.run.seed} * {SEED_STRIDE} + i",
            "guidance": 1.0,
            "weights": "EMA",
        },
        "val": validation.protocol(),
    }
    if gradient is not None:
        protocol["guidance"] = {
            "split": "val",
            "n": min(IMAGES, len(validation.images)),
            "at": "latents",
            "weights": "EMA",
            "against": "the tokenizer's loss without the discriminator's",
        }
    return EvalHook(joint.fd_every, measure, protocol)
