"""Compare features of tokenizers and generator with those of two teachers.

All features describe the same validation patches. Joint training is expected to move the generator
towards the teacher and the tokenizer away from it (docs/evaluation.md, Alignment with teachers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gear.data.images import ENCODER_BATCH, Pixels, to_tensor
from gear.data.row_selection import batches, evenly_spaced
from gear.encoders import efficientnet
from gear.encoders.config import TeacherConfig
from gear.encoders.vision import Teacher, build_teacher, on_grid, spatial_normalise
from gear.evaluation import feature_similarity
from gear.evaluation.metric_protocol import Absent, Metric
from gear.generator.conditions import Conditions
from gear.generator.transformer import Generator
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer

IMAGES = 512  # at most
PATCHES = 2048  # at most; CKNNA's cost is quadratic
NEIGHBOURS = 10
EARLIER_BLOCK = 4  # of the packaged encoder; stands in for a second teacher


def two_teachers(configured: tuple[TeacherConfig, ...]) -> dict[str, TeacherConfig]:
    """Return the run's teacher and a second one, by name.

    The second is the next configured teacher. Without one, it is another block of the packaged
    encoder if that is the run's teacher, else the packaged encoder.
    """
    first = configured[0]
    if len(configured) > 1:
        second = configured[1]
    elif first.name == "efficientnet-lite0":
        layer = 0 if first.layer == EARLIER_BLOCK else EARLIER_BLOCK
        second = TeacherConfig(name=first.name, input_size=first.input_size, layer=layer)
    else:
        second = TeacherConfig(name="efficientnet-lite0", input_size=128)
    return {_name(teacher): teacher for teacher in (first, second)}


def _name(config: TeacherConfig) -> str:
    layer = config.layer
    if config.name == "efficientnet-lite0" and layer == -1:
        layer = efficientnet.BLOCK
    return f"{config.name}/{'last' if layer == -1 else f'b{layer}'}"


@torch.inference_mode()
def teacher_features(
    config: TeacherConfig, teacher: Teacher, pixels: Pixels, grid: int
) -> np.ndarray:
    """Return a teacher's features on the token grid as training sees them, (N, L, C) float32."""
    maps = (teacher(to_tensor(pixels[p], teacher)) for p in batches(len(pixels), ENCODER_BATCH))
    return np.concatenate(
        [spatial_normalise(on_grid(x, grid), config.spatial).cpu().numpy() for x in maps]
    )


@torch.inference_mode()
def latents(tokenizer: Tokenizer, pixels: Pixels) -> np.ndarray:
    """Return the tokenizer's latents before quantization, (N, L, D) float32."""
    maps = (
        tokenizer.quant_conv(tokenizer.encoder(to_tensor(pixels[p], tokenizer)))
        for p in batches(len(pixels))
    )
    return np.concatenate([x.float().flatten(2).transpose(1, 2).cpu().numpy() for x in maps])


@torch.inference_mode()
def taps(generator: Generator, tokens_NL: np.ndarray, conditions: Conditions) -> np.ndarray:
    """Return the generator's residual stream at its tap, (N, L, width) float32.

    The output at position k depends on the condition and the tokens before patch k.
    """
    device = next(generator.parameters()).device
    parts = []
    for part in batches(len(tokens_NL)):
        tokens = torch.from_numpy(tokens_NL[part]).to(device)
        condition = conditions(np.arange(part.start, part.stop)).to(device)
        parts.append(generator(tokens, condition, tap_only=True).tap.float().cpu().numpy())
    return np.concatenate(parts)


def compare_features(
    ours_NLC: np.ndarray, theirs_NLD: np.ndarray, protocol: dict[str, Any]
) -> dict[str, Metric | Absent]:
    """Return `cknna`, `cka` (linear) and `probe` (R^2) of two sets of patch features.

    The first two use at most `PATCHES` patches; the probe is fitted on every other image and
    tested on the rest. No image may be there twice: the probe would be tested on what it was fitted
    on.

    Args:
        ours_NLC: L patch features of each of N images.
        theirs_NLD: Features of the same patches, which the probe predicts.
        protocol: How the features were computed.
    """
    rows = evenly_spaced(ours_NLC.shape[0] * ours_NLC.shape[1], PATCHES)
    ours, theirs = (x.reshape(-1, x.shape[-1])[rows] for x in (ours_NLC, theirs_NLD))
    halves = [
        x[start::2].reshape(-1, x.shape[-1]) for start in (0, 1) for x in (ours_NLC, theirs_NLD)
    ]
    base = {**protocol, "patches": len(rows), "widths": [ours.shape[1], theirs.shape[1]]}
    kernel = {"k": NEIGHBOURS, "kernel": "cosine", "hsic": "unbiased"}
    fit = {
        "patches": len(halves[2]),
        "fit": "every other image",
        "ridge": feature_similarity.RIDGE,
    }
    return {
        "cknna": measure(feature_similarity.cknna, (ours, theirs, NEIGHBOURS), {**base, **kernel}),
        "cka": measure(feature_similarity.linear_cka, (ours, theirs), base),
        "probe": measure(feature_similarity.probe, halves, {**base, **fit}),
    }


def measure(
    similarity: Callable[..., float], arguments: Sequence[Any], protocol: dict[str, Any]
) -> Metric | Absent:
    """Return a similarity of features; it is absent if the features do not allow it.

    So few images or a collapsed model do not stop the stage, and no file has a NaN.
    """
    if not all(np.isfinite(values).all() for values in arguments):
        return Absent("the features are not finite")
    try:
        return Metric(similarity(*arguments), protocol)
    except ValueError as error:
        return Absent(str(error))


@dataclass(frozen=True)
class AnalysedModels:
    """The models whose features are compared: both tokenizers, and the joint stage's generator."""

    warm: Tokenizer
    joint: Tokenizer
    generator: Generator


def analyse_alignment(
    models: AnalysedModels,
    configured: tuple[TeacherConfig, ...],
    pixels: Pixels,
    conditions: Conditions,
) -> list[dict[str, Any]]:
    """Return one row for each teacher and set of features: both names, and records by metric."""
    features = {
        "warm tokenizer's latents": latents(models.warm, pixels),
        "joint tokenizer's latents": latents(models.joint, pixels),
        "generator's tap": taps(models.generator, encode_images(models.joint, pixels), conditions),
    }
    device = next(models.joint.parameters()).device
    grid = round(models.generator.tokens**0.5)
    rows = []
    for name, config in two_teachers(configured).items():
        teacher = build_teacher(config).to(device)
        theirs = teacher_features(config, teacher, pixels, grid)
        base = {
            "teacher": name,
            "weights_sha256": teacher.weights_sha256,
            "split": "val",
            "input_size": config.input_size,
            "spatial": config.spatial,
            "weights": "EMA",
        }
        for which, ours in features.items():
            protocol = {**base, "n": len(ours), "features": which}
            metrics = compare_features(ours, theirs, protocol)
            records = {key: metric.record() for key, metric in metrics.items()}
            for key, patches in (("spatial", ours), ("spatial_teacher", theirs)):
                near = {**protocol, "near": "under half a side"}
                contrast = measure(feature_similarity.spatial_contrast, (patches,), near)
                records[key] = contrast.record()
            rows.append({"features": which, "teacher": name, **records})
    return rows
