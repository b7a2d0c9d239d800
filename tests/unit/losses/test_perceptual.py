"""Test perceptual losses against loops, and LPIPS against its formula."""

from __future__ import annotations

import hashlib
from pathlib import Path

import lpips
import pytest
import torch
import torchvision

from gear.core.errors import InputError
from gear.core.settings import PinnedFile
from gear.losses.perceptual import EarlyFeaturesLoss, LpipsLoss


def test_early_features_loss_against_a_loop() -> None:
    class Early(torch.nn.Module):
        def early(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, 2 * x[:, :2, ::2] + 1]

    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    wanted = 0.0
    for a, b in zip(Early().early(x), Early().early(y), strict=True):
        places = [(n, i, j) for n in range(2) for i in range(a.shape[2]) for j in range(a.shape[3])]
        units = [
            (a[n, :, i, j] / a[n, :, i, j].norm(), b[n, :, i, j] / b[n, :, i, j].norm())
            for n, i, j in places
        ]
        wanted += sum(float(((p - q) ** 2).sum()) for p, q in units) / len(places)
    assert EarlyFeaturesLoss(Early())(x, y).item() == pytest.approx(wanted, abs=1e-5)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> PinnedFile:
    """Save a random VGG16 like torchvision's weights file."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vgg") / "vgg16-397923af.pth"
    state = torchvision.models.vgg16(weights=None).state_dict()
    torch.save(
        {
            key: value if key.startswith("features.") else value[:1].clone()
            for key, value in state.items()
        },
        file,
    )
    return PinnedFile(path=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def test_lpips_is_its_formula_over_the_weights_given(vgg16: PinnedFile) -> None:
    loss = LpipsLoss(vgg16).train()
    assert not any(m.training for m in loss.modules())
    assert not any(p.requires_grad for p in loss.parameters())
    x, y = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    network = torchvision.models.vgg16(weights=None).features.eval()
    network.load_state_dict(
        {
            k.removeprefix("features."): v
            for k, v in torch.load(vgg16.path).items()
            if k.startswith("features.")
        }
    )
    heads = torch.load(
        Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", weights_only=True, map_location="cpu"
    )
    shift, scale = (
        torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1),
        torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1),
    )
    a, b, wanted = (x - shift) / scale, (y - shift) / scale, 0.0
    with torch.no_grad():
        taps = {3: 0, 8: 1, 15: 2, 22: 3, 29: 4}  # the ReLUs before each pooling
        for number, layer in enumerate(network):
            a, b = layer(a), layer(b)
            if number in taps:
                p, q = (t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (a, b))
                wanted += (
                    ((p - q).square() * heads[f"lin{taps[number]}.model.1.weight"])
                    .sum(1)
                    .mean()
                    .item()
                )
        assert loss(x, y).item() == pytest.approx(wanted, rel=1e-4)


def test_lpips_weights_that_cannot_be_used_say_why(vgg16: PinnedFile, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*download vgg16-397923af\.pth"):
        LpipsLoss(PinnedFile(path="/nowhere.pth", sha256=""))
    with pytest.raises(InputError, match=r"has sha256 [0-9a-f]{64}, params.yaml says 00"):
        LpipsLoss(vgg16.model_copy(update={"sha256": "00"}))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    digest = hashlib.sha256((tmp_path / "other.pth").read_bytes()).hexdigest()
    with pytest.raises(InputError, match="not torchvision's VGG16"):
        LpipsLoss(PinnedFile(path=str(tmp_path / "other.pth"), sha256=digest))
