"""Test teachers: frozen, in eval mode, patch features on the token grid, refused weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gear.core.errors import InputError
from gear.encoders.config import TeacherConfig
from gear.encoders.vision import FAMILIES, build_teacher, spatial_normalise

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2Config", {"image_size": 28, "patch_size": 14}),
    "dinov3": ("DINOv3ViTConfig", {"image_size": 32, "patch_size": 16, "num_register_tokens": 4}),
    "siglip2": ("SiglipVisionConfig", {"image_size": 32, "patch_size": 16}),
    "clip": ("CLIPVisionConfig", {"image_size": 28, "patch_size": 14}),
    "vjepa2": (
        "VJEPA2Config",
        {
            "crop_size": 32,
            "patch_size": 16,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
    ),
}


COMMON = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def saved(name: str, folder: Path) -> TeacherConfig:
    """Save a small random model of a family; return its config."""
    settings, own = SMALL[name]
    torch.manual_seed(0)
    model = getattr(transformers, FAMILIES[name].model)(
        getattr(transformers, settings)(**COMMON, **own)
    )
    model.save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return TeacherConfig(
        name=name, path=str(folder), sha256=digest, input_size=4 * own["patch_size"]
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_transformers_teacher_gives_its_models_patch_tokens(name: str, tmp_path: Path) -> None:
    config = saved(name, tmp_path)
    teacher = build_teacher(config).train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    images = torch.rand(2, 3, 40, 40) * 2 - 1
    maps = teacher(images)
    assert maps.shape == (2, 24, 4, 4)
    assert maps.dtype == torch.float32
    first = build_teacher(config.model_copy(update={"layer": 1}))(images)
    assert first.shape == maps.shape
    assert not torch.allclose(first, maps)
    # changing the last patch of the image must change its features the most
    changed = images.clone()
    changed[:, :, -10:, -10:] = 0.9
    moved = (teacher(changed) - maps).abs().mean((0, 1))
    assert moved[-1, -1] == moved.max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"path": "/nowhere"},
            "no file /nowhere/model.safetensors: download.*facebook/dinov2-base",
        ),
        ({"path": ""}, "path is empty"),
        ({"sha256": "0" * 64}, "has sha256 [0-9a-f]{64}, params.yaml says 0000"),
        ({"layer": 9}, "layer 9: it has hidden states 0 to 2"),
        ({"input_size": 57}, "57 is not a multiple of its patch size 14"),
    ],
)
def test_a_teacher_that_cannot_be_used_says_why(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = saved("dinov2", tmp_path).model_copy(update=change)
    with pytest.raises(InputError, match=words):
        build_teacher(config)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    config = saved("clip", tmp_path).model_copy(update={"name": "dinov2"})
    with pytest.raises(InputError, match="teacher dinov2"):
        build_teacher(config)


def test_a_block_the_packaged_teacher_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="blocks 0 to 10"):
        build_teacher(TeacherConfig(name="efficientnet-lite0", input_size=64, layer=12))
    assert build_teacher(TeacherConfig(name="efficientnet-lite0", input_size=64, layer=4))(
        torch.zeros(1, 3, 32, 32)
    ).shape == (1, 40, 8, 8)


def test_spatial_normalisation_matches_its_formula() -> None:
    z = torch.randn(2, 9, 5, dtype=torch.float64)
    for b in range(2):
        for c in range(5):
            column = z[b, :, c]
            centred = column - 0.6 * sum(column) / 9
            torch.testing.assert_close(spatial_normalise(z, "mean")[b, :, c], centred)
            deviation = (((column - sum(column) / 9) ** 2).sum() / 8) ** 0.5
            torch.testing.assert_close(
                spatial_normalise(z, "standard")[b, :, c], centred / (deviation + 1e-6)
            )
    assert spatial_normalise(z, "none") is z
