"""Features of tokenizers and generator beside those of two teachers, on the same validation patches: the alignment flip in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gear.alignment import efficientnet
from gear.alignment.teachers import Teacher, build_teacher, on_grid, spatial_normalise
from gear.config import TeacherConfig
from gear.data.pixels import ENCODER_BATCH, Pixels, batches, evenly, to_tensor
from gear.evaluation import representation
from gear.evaluation.models import tokens_of
from gear.evaluation.protocol import Metric
from gear.generator.transformer import Generator
from gear.tokenizer.model import Tokenizer

IMAGES, PATCHES, NEIGHBOURS = 512, 2048, 10  # at most; CKNNA's cost is the square of the patches
EARLIER = 4  # the packaged encoder's block that stands in for a second teacher


def two_teachers(configured: tuple[TeacherConfig, ...]) -> dict[str, TeacherConfig]:
    """The run's teacher and a second one by name: the next that is configured, else another view by the packaged encoder."""
    first = configured[0]
    if len(configured) > 1:
        second = configured[1]
    elif first.name == "efficientnet-lite0":
        second = TeacherConfig(name="efficientnet-lite0", input_size=first.input_size, layer=0 if first.layer == EARLIER else EARLIER)
    else:
        second = TeacherConfig(name="efficientnet-lite0", input_size=128)
    return {_named(one): one for one in (first, second)}


def _named(one: TeacherConfig) -> str:
    layer = efficientnet.BLOCK if one.name == "efficientnet-lite0" and one.layer == -1 else one.layer
    return f"{one.name}/{'last' if layer == -1 else f'b{layer}'}"


@torch.inference_mode()
def taught(config: TeacherConfig, teacher: Teacher, pixels: Pixels, grid: int) -> np.ndarray:
    """A teacher's features on the token grid as training sees them, (N, L, C)."""
    parts = (teacher(to_tensor(pixels[p], teacher)) for p in batches(len(pixels), ENCODER_BATCH))
    return np.concatenate([spatial_normalise(on_grid(x, grid), config.spatial).cpu().numpy() for x in parts])


@torch.inference_mode()
def latents(tokenizer: Tokenizer, pixels: Pixels) -> np.ndarray:
    """What the tokenizer quantises, (N, L, D)."""
    parts = (tokenizer.quant_conv(tokenizer.encoder(to_tensor(pixels[p], tokenizer))) for p in batches(len(pixels)))
    return np.concatenate([x.float().flatten(2).transpose(1, 2).cpu().numpy() for x in parts])


@torch.inference_mode()
def taps(generator: Generator, tokens_NL: np.ndarray, given: Callable[[np.ndarray], torch.Tensor]) -> np.ndarray:
    """The residual stream at the tap, (N, L, width): position k has seen the tokens before patch k; `given`: rows to condition."""
    device, states = next(generator.parameters()).device, []
    for part in batches(len(tokens_NL)):
        tokens, condition = torch.from_numpy(tokens_NL[part]).to(device), given(np.arange(part.start, part.stop)).to(device)
        states.append(generator(tokens, condition, tap_only=True).tap.float().cpu().numpy())
    return np.concatenate(states)


def compare(ours_NLC: np.ndarray, theirs_NLD: np.ndarray, protocol: dict[str, Any]) -> dict[str, Metric]:
    """CKNNA and linear CKA over at most some thousand patches; the probe fits on every other image and is tested on the rest."""
    chosen = evenly(ours_NLC.shape[0] * ours_NLC.shape[1], PATCHES)
    ours, theirs = (x.reshape(-1, x.shape[-1])[chosen] for x in (ours_NLC, theirs_NLD))
    halves = [x[start::2].reshape(-1, x.shape[-1]) for start in (0, 1) for x in (ours_NLC, theirs_NLD)]
    base = {**protocol, "patches": len(chosen), "widths": [ours.shape[1], theirs.shape[1]]}
    return {
        "cknna": Metric(representation.cknna(ours, theirs, NEIGHBOURS), {**base, "k": NEIGHBOURS, "kernel": "cosine", "hsic": "unbiased"}),
        "cka": Metric(representation.linear_cka(ours, theirs), base),
        "probe": Metric(
            representation.probe(*halves), {**base, "patches": len(halves[2]), "fit": "every other image", "ridge": representation.RIDGE}
        ),
    }


def measure(
    warm: Tokenizer,
    joint: Tokenizer,
    generator: Generator,
    configured: tuple[TeacherConfig, ...],
    pixels: Pixels,
    given: Callable[[np.ndarray], torch.Tensor],
) -> list[dict[str, Any]]:
    """One row for each of warm latents, joint latents and generator taps, and each teacher: records by metric."""
    features = {
        "warm tokenizer's latents": latents(warm, pixels),
        "joint tokenizer's latents": latents(joint, pixels),
        "generator's tap": taps(generator, tokens_of(joint, pixels), given),
    }
    device, grid, rows = next(joint.parameters()).device, round(generator.tokens**0.5), []
    for name, config in two_teachers(configured).items():
        teacher = build_teacher(config).to(device)
        theirs = taught(config, teacher, pixels, grid)
        protocol: dict[str, Any] = {"teacher": name, "weights_sha256": teacher.weights_sha256, "split": "val"}
        protocol |= {"input_size": config.input_size, "spatial": config.spatial}
        for which, ours in features.items():
            records = compare(ours, theirs, {**protocol, "n": len(ours), "features": which, "weights": "EMA"})
            rows.append({"features": which, "teacher": name, **{key: metric.record() for key, metric in records.items()}})
    return rows
