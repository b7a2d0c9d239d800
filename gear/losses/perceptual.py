"""Perceptual losses: LPIPS from local VGG16 weights, or early features of the packaged encoder.

The second is another measure, and its values cannot be compared with LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from gear.core.errors import InputError
from gear.core.files import require_file
from gear.core.settings import PinnedFile
from gear.core.untrusted_checkpoint import read_untrusted_checkpoint

FeatureMaps = Callable[[torch.Tensor], list[torch.Tensor]]


class EarlyFeaturesLoss(nn.Module):
    """Mean squared distance of channel-normalised feature maps, summed over early levels."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.early: FeatureMaps = encoder.early  # type: ignore[assignment]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the distance of images (B, 3, H, W) in [-1, 1]; gradients reach `x` only."""
        with torch.no_grad():
            wanted = self.early(y)
        pairs = zip(self.early(x), wanted, strict=True)
        return torch.stack([(unit(a) - unit(b)).square().sum(1).mean() for a, b in pairs]).sum()


class LpipsLoss(nn.Module):
    """LPIPS-VGG (Zhang et al. 2018) from local VGG16 weights.

    The linear heads come with the lpips package.
    """

    def __init__(self, weights: PinnedFile) -> None:
        super().__init__()
        import lpips

        vgg = _read_vgg16(weights)
        self.metric = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        layers = [
            module
            for part in range(1, 6)
            for module in getattr(self.metric.net, f"slice{part}")
            if isinstance(module, nn.Conv2d)
        ]
        try:
            names = sorted(
                {key.rsplit(".", 1)[0] for key in vgg if key.startswith("features.")},
                key=lambda n: int(n.split(".")[1]),
            )
            for layer, name in zip(layers, names, strict=True):
                layer.load_state_dict(
                    {"weight": vgg[f"{name}.weight"], "bias": vgg[f"{name}.bias"]}
                )
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"loss.vgg16: {weights.path}: not torchvision's VGG16: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LpipsLoss:
        """Stay in eval mode, since its heads have dropout."""
        return super().train(False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean LPIPS of images (B, 3, H, W) in [-1, 1]."""
        result: torch.Tensor = self.metric(x, y).mean()
        return result


def _read_vgg16(weights: PinnedFile) -> dict[str, torch.Tensor]:
    remedy = "download vgg16-397923af.pth from download.pytorch.org/models, or leave it empty"
    path = require_file(weights.path, weights.sha256, "loss.vgg16", remedy)
    return read_untrusted_checkpoint(path)


def unit(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Return a feature map with the channel vector of each position scaled to length 1, in fp32."""
    return F.normalize(x_BCHW.float(), dim=1, eps=1e-6)
