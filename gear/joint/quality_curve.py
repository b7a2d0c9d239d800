"""FD of fresh samples, and scores on validation images, during training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from gear.core.files import read_json, replace_file
from gear.data.row_selection import batches, round_robin
from gear.data.shards import encode_png
from gear.encoders.efficientnet import build_encoder
from gear.evaluation.efficientnet_reference import load_feature_reference
from gear.evaluation.sample_quality import decoded_features
from gear.generator.conditioning import Condition
from gear.generator.conditions import Conditions, sampled_classes
from gear.generator.config import SampleConfig
from gear.generator.sampling import SEED_STRIDE, sample, sample_seeds
from gear.joint.config import JointConfig
from gear.joint.guidance_gradient import IMAGES, GradientProbe
from gear.joint.model import GuidedGenerator
from gear.joint.validation_curve import ValidationSet, validation_scores
from gear.tokenizer.inference import decode_tokens
from gear.tokenizer.model import Tokenizer
from gear.training.ema import EMA
from gear.training.loop import EvalHook
from gear.training.run import TrainingRun

COLUMNS = 8  # maximum, of the picture of samples
SHEET_WIDTH = 1024  # approximate width of that picture, pixels


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

    It measures the FD of `joint.fd_n` new samples, drawn with the run's seed for balanced classes
    or for training captions, and the scores of validation images. The tokenizer's weights are
    averaged too if it trains. The number of samples differs from that of the evaluation, so FD is
    comparable along the curve but not with the evaluation's.

    The first samples are written to `<stage>-samples/<step>.png` next to the log, on which no stage
    depends.

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
    # copies with whole weights: under ZeRO-3 those of the trained modules are partitioned
    guided = new_guided().to(run.device).eval()
    generator = guided.generator
    decoder = Tokenizer(tokenizer.config).to(run.device).eval()
    rows = round_robin(joint.fd_n, len(real.features))
    labels, rule = sampled_classes(joint.fd_n, generator.classes or 1)
    settings = SampleConfig(n=joint.fd_n)
    seeds = sample_seeds(run.settings.run.seed, joint.fd_n)

    def conditions_of(part: slice) -> Condition:
        positions = np.arange(part.start, part.stop)
        if generator.classes:
            return torch.from_numpy(labels[positions])
        return conditions(rows[positions])

    def draw_part(part: slice) -> np.ndarray:
        return sample(generator, conditions_of(part), seeds[part], settings).cpu().numpy()

    drawn: dict[str, np.ndarray] = {}

    def measure(averages: dict[str, EMA]) -> dict[str, float]:
        guided.load_state_dict(averages["guided"].weights)
        decoder.load_state_dict(
            averages["tokenizer"].weights if "tokenizer" in averages else tokenizer.state_dict()
        )
        tokens = np.concatenate(list(ranks.map(draw_part, batches(joint.fd_n))))
        drawn["tokens"] = tokens
        features = decoded_features(encoder, decoder, tokens, real.input_size, ranks)
        return {
            "fd": real.fd(features),
            **validation_scores(guided, decoder, validation, ranks),
            **(gradient(guided, decoder) if gradient is not None else {}),
        }

    def show(step: int) -> None:
        if run.context.is_rank_zero:
            write_samples(run.log.with_name(f"{run.stage}-samples"), step, decoder, drawn["tokens"])

    protocol = {
        "fd": {
            **read_json(reference / "protocol.json"),
            "n": joint.fd_n,
            "condition": rule if generator.classes else "training captions, evenly spaced",
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
    return EvalHook(joint.fd_every, measure, protocol, show)


def write_samples(folder: Path, step: int, decoder: Tokenizer, tokens_NL: np.ndarray) -> None:
    """Write up to two rows of the first samples as `<step>.png`.

    Pictures of this step and later ones are deleted, since they come from an earlier run. Errors of
    the file system are ignored, so that training goes on.
    """
    with suppress(OSError):
        for file in folder.glob("*.png"):
            if file.stem.isdigit() and int(file.stem) >= step:
                file.unlink()
        replace_file(folder / f"{step}.png", encode_png(_sheet(decoder, tokens_NL)))


def _sheet(decoder: Tokenizer, tokens_NL: np.ndarray) -> np.ndarray:
    """Return decoded images in at most two rows, about 1024 pixels wide, (H, W, 3) uint8."""
    images = decode_tokens(decoder, tokens_NL[: 2 * COLUMNS])
    size = images.shape[1]
    columns = min(COLUMNS, max(4, SHEET_WIDTH // size), len(images))
    rows = min(2, len(images) // columns)
    grid = images[: rows * columns].reshape(rows, columns, size, size, 3)
    return grid.swapaxes(1, 2).reshape(rows * size, columns * size, 3)
