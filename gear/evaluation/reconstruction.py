"""Quality of a tokenizer's reconstructions: FD, PSNR and SSIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gear.core.ranks import ALONE, Ranks
from gear.data.images import Pixels
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.encoders.efficientnet import Encoder, pooled_features
from gear.evaluation.efficientnet_reference import FeatureReference
from gear.evaluation.metric_protocol import Metric
from gear.tokenizer.inference import decode_tokens, encode_images
from gear.tokenizer.model import Tokenizer

IMAGES = 50_000  # maximum number of images of a split that are reconstructed
# as torchmetrics does it; Wang et al. 2004 leave out windows that cross the border
SSIM = {
    "window": "gaussian 11, sigma 1.5",
    "border": "reflected by 5 pixels, every position in the mean",
}
ENOUGH = 5000  # minimum number of validation images to measure rFD on them


@dataclass(frozen=True)
class Reconstructions:
    """Reconstructions of images, computed as they are read."""

    tokenizer: Tokenizer
    originals: Pixels

    def __len__(self) -> int:
        return len(self.originals)

    def __getitem__(self, part: slice) -> np.ndarray:
        return decode_tokens(self.tokenizer, encode_images(self.tokenizer, self.originals[part]))


def reconstruction_fd(
    tokenizer: Tokenizer,
    encoder: Encoder,
    reference: FeatureReference,
    splits: dict[str, Split],
    protocol: dict[str, Any],
    ranks: Ranks = ALONE,
) -> dict[str, Metric]:
    """Return `rfd`, the FD of validation reconstructions to the training images, and `rfd_floor`.

    Training reconstructions are used if there are fewer than `ENOUGH` validation images. The floor
    is the FD of the originals. An image counts once, however many captions it has. `splits` has the
    keys `train` and `val`.
    """
    images = splits["val"].distinct(IMAGES)
    name = "val" if len(images) >= ENOUGH else "train"
    if name == "train":
        images = splits["train"].distinct(IMAGES)
    rebuilt = Reconstructions(tokenizer, images)

    def extract(part: slice) -> np.ndarray:
        return pooled_features(encoder, rebuilt[part], reference.input_size)

    features = np.concatenate(list(ranks.map(extract, batches(len(rebuilt)))))
    if name == "train":
        originals = reference.features[images.indices]
    else:
        originals = pooled_features(encoder, images, reference.input_size, ranks)
    sizes = {"n": len(features), "split": name}
    measured = {**sizes, "weights": "EMA", "rounding": "nearest uint8"}
    return {
        "rfd": Metric(reference.fd(features), {**protocol, **measured}),
        "rfd_floor": Metric(
            max(0.0, reference.fd(originals)),  # may be below 0 by rounding if the sets are equal
            {**protocol, **sizes, "images": "the originals"},
        ),
    }


def reconstruction_fidelity(
    tokenizer: Tokenizer, val: Split, ranks: Ranks = ALONE
) -> dict[str, Metric]:
    """Return `psnr` and `ssim` of validation reconstructions, means over images.

    PSNR (dB) is limited to 100 per image, so that it is finite for a perfect reconstruction.
    """
    originals = val.distinct(IMAGES)
    rebuilt = Reconstructions(tokenizer, originals)

    def compare(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        given, made = (_scaled(pixels) for pixels in (originals[part], rebuilt[part]))
        return _psnr(made, given), _ssim(made, given)

    psnr, ssim = zip(*ranks.map(compare, batches(len(originals))), strict=True)
    protocol = {
        "split": "val",
        "n": len(originals),
        "crop": "centre",
        "rounding": "nearest uint8",
        "weights": "EMA",
    }
    return {
        "psnr": Metric(float(torch.cat(psnr).mean()), {**protocol, "mean": "over images, dB"}),
        "ssim": Metric(float(torch.cat(ssim).mean()), {**protocol, **SSIM}),
    }


def peak_signal_to_noise(made: np.ndarray, given: np.ndarray) -> list[float]:
    """Return the PSNR in dB, at most 100, of each of N images; both are (N, H, W, 3) uint8."""
    ratios: list[float] = _psnr(_scaled(made), _scaled(given)).tolist()
    return ratios


def _scaled(pixels: np.ndarray) -> torch.Tensor:
    """Return images (N, H, W, 3) uint8 as (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


# imported in functions: torchmetrics takes seconds to import, and sample metrics do without it
def _psnr(made_N3HW: torch.Tensor, given_N3HW: torch.Tensor) -> torch.Tensor:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    each = (1, 2, 3)
    value = peak_signal_noise_ratio(
        made_N3HW, given_N3HW, data_range=1.0, reduction="none", dim=each
    )
    return value.clamp(max=100)


def _ssim(made_N3HW: torch.Tensor, given_N3HW: torch.Tensor) -> torch.Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(
        made_N3HW, given_N3HW, data_range=1.0, reduction="none"
    )
    assert isinstance(value, torch.Tensor)
    return value
