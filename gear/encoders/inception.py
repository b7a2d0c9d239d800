"""Inception-v3 with the 2015 TensorFlow weights, the feature extractor of FID."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch
from torch import nn

from gear.core.errors import InputError
from gear.core.files import require_file
from gear.core.settings import PinnedFile

EXTRACTOR = "inception-v3 (2015 TensorFlow weights)"

if TYPE_CHECKING:  # the package takes seconds to import
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

RESIZE = "bilinear as in TensorFlow 1, no antialias, to 299"

POOLED = 2048
SPATIAL = 2023
LOGITS = 1008
CHANNELS = 7


class Inception(nn.Module):
    """The frozen extractor, always in eval mode."""

    def __init__(self, network: FeatureExtractorInceptionV3, weights_sha256: str) -> None:
        super().__init__()
        self.network = network
        self.weights_sha256 = weights_sha256
        self._map = torch.empty(0)
        # `mixed_6/conv` of the TensorFlow graph
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep_map)

    def train(self, mode: bool = True) -> Inception:
        """Stay in eval mode."""
        return super().train(False)

    def _keep_map(self, module: nn.Module, arguments: object, output: torch.Tensor) -> None:
        self._map = output

    def forward(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return pooled features, spatial features and logits of uint8 images.

        Their shapes are (B, 2048), (B, 2023) and (B, 1008). Spatial features are flattened with
        positions first, as in TensorFlow; logits are without bias.
        """
        pooled, logits = self.network(images_B3HW)
        spatial = self._map[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pooled, spatial, logits


def build_inception(weights: PinnedFile) -> Inception:
    """Return the extractor with the weights that `evaluate.inception` names.

    Raises:
        InputError: if they are absent, have another sha256 or are not torch-fidelity's.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    remedy = f"download {URL_INCEPTION_V3}, or leave it empty"
    path = require_file(weights.path, weights.sha256, "evaluate.inception", remedy)
    try:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
        safe = io.BytesIO()  # torch-fidelity unpickles its file, so give it one of tensors only
        torch.save(tensors, safe)
        safe.seek(0)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe
        )
    except Exception as error:  # damaged files raise errors of many types
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"evaluate.inception: {path}: not torch-fidelity's Inception-v3 "
            f"({URL_INCEPTION_V3}): {text}"
        ) from None
    return Inception(network.to(memory_format=torch.channels_last), weights.sha256)
