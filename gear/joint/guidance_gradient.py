"""Compare the gradient of alignment at the tokenizer's latents with that of its own loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from gear.data.images import to_tensor
from gear.data.row_selection import evenly_spaced
from gear.generator.conditioning import Condition
from gear.joint.alignment import alignment_loss
from gear.joint.model import GuidedGenerator
from gear.joint.soft_input import soft_tokens
from gear.joint.validation_curve import ValidationSet
from gear.tokenizer.model import Tokenizer
from gear.tokenizer.quantizers import Quantized

# from the reconstruction, the images and their assignment to the tokenizer's own loss
OwnLoss = Callable[[torch.Tensor, torch.Tensor, Quantized], torch.Tensor]
GradientProbe = Callable[[GuidedGenerator, Tokenizer], dict[str, float]]

IMAGES = 32  # of the validation split


def guidance_gradient(
    guided: GuidedGenerator,
    tokenizer: Tokenizer,
    images_BCHW: torch.Tensor,
    condition: Condition,
    teacher_BLC: torch.Tensor,
    own_loss: OwnLoss,
    *,
    readout: str,
    temperature: float,
    weight: float,
) -> dict[str, float]:
    """Compare two gradients at the latents, which are the encoder's output.

    One is that of `weight` times the alignment loss of the soft assignment ("guidance"), the other
    that of the tokenizer's own loss. Both reach the encoder only through the latents.

    Args:
        guided: Generator and projector.
        tokenizer: The tokenizer.
        images_BCHW: Images in [-1, 1].
        condition: Their conditions.
        teacher_BLC: Their teacher features.
        own_loss: The tokenizer's own loss.
        readout: How the assignment is read out, as in `Recipe`.
        temperature: tau of the soft assignment.
        weight: The setting joint.lambda_tok.

    Returns:
        `guidance/ratio`, the norm of the first over that of the second, 0 or more, and
        `guidance/cosine` between them, in [-1, 1]; if it is negative, guidance works against the
        tokenizer's own loss.
    """
    read = partial(soft_tokens, temperature=temperature, readout=readout)
    with torch.no_grad():
        latents = tokenizer.quant_conv(tokenizer.encoder(images_BCHW))
    with torch.enable_grad():
        latents = latents.float().requires_grad_()
        quantized = tokenizer.quantize(latents)
        own = own_loss(tokenizer.decode(quantized.codes).float(), images_BCHW, quantized)
        _, projected_BLC = guided(partial(read, quantized), condition, tap_only=True)
        aligned = alignment_loss(projected_BLC, teacher_BLC, guided.projector.teachers)
        (of_own,) = torch.autograd.grad(own, latents, retain_graph=True)
        (of_guidance,) = torch.autograd.grad(weight * aligned, latents)
    cosine = F.cosine_similarity(of_guidance.flatten(), of_own.flatten(), dim=0)
    ratio = of_guidance.norm() / of_own.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return {"guidance/ratio": ratio.item(), "guidance/cosine": cosine.item()}


def gradient_probe(
    validation: ValidationSet, own_loss: OwnLoss, *, readout: str, temperature: float, weight: float
) -> GradientProbe:
    """Return a function that applies `guidance_gradient` to a few validation images."""
    rows = np.array(evenly_spaced(len(validation.images), IMAGES))
    pixels = validation.images.split.images(validation.images.indices[rows])
    features = torch.from_numpy(validation.features[rows, 0].astype(np.float32))
    condition = validation.conditions(rows)

    def probe(guided: GuidedGenerator, tokenizer: Tokenizer) -> dict[str, float]:
        images = to_tensor(pixels, tokenizer)
        return guidance_gradient(
            guided,
            tokenizer,
            images,
            condition.to(images.device),
            features.to(images.device),
            own_loss,
            readout=readout,
            temperature=temperature,
            weight=weight,
        )

    return probe
