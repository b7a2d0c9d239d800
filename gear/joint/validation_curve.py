"""Next-token loss and alignment on validation images during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gear.core.ranks import ALONE, Ranks
from gear.data.row_selection import batches
from gear.data.shards import Subset
from gear.evaluation.likelihood import BATCH, bits_per_image
from gear.generator.conditions import Conditions
from gear.joint.alignment import alignment_loss
from gear.joint.model import GuidedGenerator
from gear.tokenizer.inference import encode_images
from gear.tokenizer.model import Tokenizer


@dataclass(frozen=True)
class ValidationSet:
    """Validation images with their conditions and teacher features.

    images: Evenly spaced rows of the validation split.
    conditions: Function from positions in `images` to their conditions.
    features: Teacher features, (N, 1, L, C) float16.
    """

    images: Subset
    conditions: Conditions
    features: np.ndarray

    def protocol(self) -> dict[str, Any]:
        """Return how the curve is measured."""
        return {
            "split": "val",
            "n": len(self.images),
            "crop": "centre",
            "weights": "EMA",
            "tokens": "of the tokenizer at that step",
        }


def validation_scores(
    guided: GuidedGenerator,
    tokenizer: Tokenizer,
    validation: ValidationSet,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Return `val/ntp_bits`, bits per image, and `val/teacher_cosine`, in [-1, 1].

    Tokens are those of `tokenizer`: if it trains, bits of different steps are of different codes.
    The cosine is between the projected tap at each token and the teacher's feature of its patch.
    Ranks share the work.
    """
    device = next(guided.parameters()).device
    tokens_NL = encode_images(tokenizer, validation.images, ranks)
    teachers = guided.projector.teachers

    @torch.inference_mode()
    def score(part: slice) -> tuple[float, float]:
        tokens = torch.from_numpy(tokens_NL[part]).to(device)
        condition = validation.conditions(np.arange(part.start, part.start + len(tokens)))
        output, projected = guided(tokens, condition.to(device))
        assert output.logits is not None
        logits = output.logits.double().flatten(0, 1)
        nats = F.cross_entropy(logits, tokens.flatten(), reduction="sum").item()
        features = torch.from_numpy(validation.features[part, 0].astype(np.float32)).to(device)
        return nats, -alignment_loss(projected, features, teachers).item() * len(tokens)

    nats, cosine = map(sum, zip(*ranks.map(score, batches(len(tokens_NL), BATCH)), strict=True))
    mean_nats = nats / tokens_NL.size
    return {
        "val/ntp_bits": bits_per_image(mean_nats, tokens_NL.shape[1]),
        "val/teacher_cosine": cosine / len(tokens_NL),
    }
