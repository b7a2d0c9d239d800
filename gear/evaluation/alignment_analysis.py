"""Features of tokenizers and generator beside those of two teachers, on the same validation patches: the alignment flip in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gear.data.images import ENCODER_BATCH, Pixels, to_tensor
from gear.data.rows import batches, evenly_spaced
from gear.encoders import efficientnet
from gear.encoders.config import TeacherConfig
from gear.encoders.vision import Teacher, build_teacher, on_grid, spatial_normalise
from gear.evaluation import feature_similarity
from gear.evaluation.metric import Metric
from gear.generator.conditioning import Condition
from gear.generator.transformer import Generator
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer

IMAGES, PATCHES, NEIGHBOURS = 512, 2048, 10  # at most; CKNNA's cost is the square of the patches

EARLIER = 4  # the packaged encoder's block that stands in for a second teacher


def two_teachers(configured: tuple[TeacherConfig, ...]) -> dict[str, TeacherConfig]:
    """The run's teacher and a second one by name: the next that is configured, else another view by the packaged encoder."""
    first = configured[0]
    if len(configured) > 1:
        second = configured[1]
    elif first.name == "efficientnet-lite0":
        second = TeacherConfig(
            name="efficientnet-lite0",
            input_size=first.input_size,
            layer=0 if first.layer == EARLIER else EARLIER,
        )
    else:
        second = TeacherConfig(name="efficientnet-lite0", input_size=128)
    return {_named(one): one for one in (first, second)}


def _named(one: TeacherConfig) -> str:
    layer = (
        efficientnet.BLOCK if one.name == "efficientnet-lite0" and one.layer == -1 else one.layer
    )
    return f"{one.name}/{'last' if layer == -1 else f'b{layer}'}"


@torch.inference_mode()
def teacher_features(
    config: TeacherConfig, teacher: Teacher, pixels: Pixels, grid: int
) -> np.ndarray:
    """A teacher's features on the token grid as training sees them, (N, L, C)."""
    parts = (teacher(to_tensor(pixels[p], teacher)) for p in batches(len(pixels), ENCODER_BATCH))
    return np.concatenate(
        [spatial_normalise(on_grid(x, grid), config.spatial).cpu().numpy() for x in parts]
    )


@torch.inference_mode()
def latents(tokenizer: Tokenizer, pixels: Pixels) -> np.ndarray:
    """What the tokenizer quantises, (N, L, D)."""
    parts = (
        tokenizer.quant_conv(tokenizer.encoder(to_tensor(pixels[p], tokenizer)))
        for p in batches(len(pixels))
    )
    return np.concatenate([x.float().flatten(2).transpose(1, 2).cpu().numpy() for x in parts])


@torch.inference_mode()
def taps(
    generator: Generator, tokens_NL: np.ndarray, given: Callable[[np.ndarray], Condition]
) -> np.ndarray:
    """The generator's residual stream at its tap, (N, L, width): position k has seen the tokens before patch k."""
    device, found = next(generator.parameters()).device, []
    for part in batches(len(tokens_NL)):
        tokens, condition = (
            torch.from_numpy(tokens_NL[part]).to(device),
            given(np.arange(part.start, part.stop)).to(device),
        )
        found.append(generator(tokens, condition, tap_only=True).tap.float().cpu().numpy())
    return np.concatenate(found)


def compare(
    ours_NLC: np.ndarray, theirs_NLD: np.ndarray, protocol: dict[str, Any]
) -> dict[str, Metric]:
    """CKNNA and linear CKA over at most some thousand patches; the probe fits on every other image and is tested on the rest."""
    chosen = evenly_spaced(ours_NLC.shape[0] * ours_NLC.shape[1], PATCHES)
    ours, theirs = (x.reshape(-1, x.shape[-1])[chosen] for x in (ours_NLC, theirs_NLD))
    halves = [
        x[start::2].reshape(-1, x.shape[-1]) for start in (0, 1) for x in (ours_NLC, theirs_NLD)
    ]
    base = {**protocol, "patches": len(chosen), "widths": [ours.shape[1], theirs.shape[1]]}
    return {
        "cknna": Metric(
            feature_similarity.cknna(ours, theirs, NEIGHBOURS),
            {**base, "k": NEIGHBOURS, "kernel": "cosine", "hsic": "unbiased"},
        ),
        "cka": Metric(feature_similarity.linear_cka(ours, theirs), base),
        "probe": Metric(
            feature_similarity.probe(*halves),
            {
                **base,
                "patches": len(halves[2]),
                "fit": "every other image",
                "ridge": feature_similarity.RIDGE,
            },
        ),
    }


def measure(
    warm: Tokenizer,
    joint: Tokenizer,
    generator: Generator,
    configured: tuple[TeacherConfig, ...],
    pixels: Pixels,
    given: Callable[[np.ndarray], Condition],
) -> list[dict[str, Any]]:
    """One row for each of warm latents, joint latents and generator taps, and each teacher: records by metric."""
    features = {
        "warm tokenizer's latents": latents(warm, pixels),
        "joint tokenizer's latents": latents(joint, pixels),
        "generator's tap": taps(generator, encode_images(joint, pixels), given),
    }
    device, grid, rows = next(joint.parameters()).device, round(generator.tokens**0.5), []
    for name, config in two_teachers(configured).items():
        teacher = build_teacher(config).to(device)
        theirs = teacher_features(config, teacher, pixels, grid)
        protocol: dict[str, Any] = {
            "teacher": name,
            "weights_sha256": teacher.weights_sha256,
            "split": "val",
        }
        protocol |= {"input_size": config.input_size, "spatial": config.spatial}
        for which, ours in features.items():
            records = compare(
                ours, theirs, {**protocol, "n": len(ours), "features": which, "weights": "EMA"}
            )
            rows.append(
                {
                    "features": which,
                    "teacher": name,
                    **{key: metric.record() for key, metric in records.items()},
                }
            )
    return rows
