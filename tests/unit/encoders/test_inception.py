"""Test Inception: its spatial features, and weights that are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from gear.core.errors import InputError
from gear.core.settings import PinnedFile
from gear.encoders.inception import SPATIAL, Inception, build_inception
from tests.support.images import pictures


def test_spatial_features_are_the_first_channels_of_the_map_in_tensorflows_order(
    inception: Inception,
) -> None:
    pixels = torch.from_numpy(pictures(1, 2)[:2]).permute(0, 3, 1, 2)
    network = inception.network
    with torch.inference_mode():
        spatial = inception(pixels)[1]
        x = (
            interpolate_bilinear_2d_like_tensorflow1x(
                pixels.float(), size=(299, 299), align_corners=False
            )
            - 128
        ) / 128
        before = [name for name, _ in network.named_children()]
        for name in before[: before.index("Mixed_6d")]:
            x = getattr(network, name)(x)
        by_hand = network.Mixed_6d.branch1x1(x)
    assert spatial.shape == (2, SPATIAL)
    assert by_hand.shape == (2, 192, 17, 17)
    as_maps = spatial.unflatten(1, (17, 17, 7))
    assert torch.allclose(as_maps.permute(0, 3, 1, 2), by_hand[:, :7], rtol=1e-3, atol=1e-3)
    assert as_maps.std() > 0.1


def test_weights_that_cannot_be_used_say_why(inception_weights: PinnedFile, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"evaluate\.inception\.path: no file .*"
        r"download https://.*/weights-inception-2015-12-05-6726825d\.pth",
    ):
        build_inception(PinnedFile(path=str(tmp_path / "none"), sha256=""))
    with pytest.raises(
        InputError, match=r"evaluate\.inception: .* has sha256 [0-9a-f]{64}, params.yaml says 00"
    ):
        build_inception(inception_weights.model_copy(update={"sha256": "00"}))
    file = tmp_path / "other.pth"
    # another model's weights, no state dict, an object that needs code to load
    for content in ({"a": torch.zeros(1)}, [1, 2], Path("/")):
        torch.save(content, file)
        with pytest.raises(
            InputError, match=r"evaluate\.inception: .*not torch-fidelity's Inception-v3"
        ):
            build_inception(
                PinnedFile(path=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
            )
