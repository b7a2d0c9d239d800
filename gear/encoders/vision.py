"""Teachers: frozen encoders whose patch features guide tokenizer and generator.

EfficientNet-Lite0 comes with the packages. The others are transformers models read from a local
folder whose weights must have the sha256 that params.yaml names; nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gear.core.errors import InputError
from gear.core.files import require_file
from gear.encoders import efficientnet
from gear.encoders.config import TeacherConfig

PACKAGED = "efficientnet-lite0"  # the teacher that comes with the packages
SPATIAL_SHARE = 0.6  # share of the mean token that spatial normalization subtracts


@dataclass(frozen=True)
class Family:
    """A transformers vision model.

    model: Its class.
    mean, std: Of the pixels, by which its input is normalized, per channel.
    source: Hugging Face repository of its weights.
    video: Whether its input is a sequence of frames.
    flexible: Whether it takes `interpolate_pos_encoding`, for other input sizes.
    """

    model: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    video: bool = False
    flexible: bool = False


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

FAMILIES = {
    "dinov2": Family("Dinov2Model", *IMAGENET, "facebook/dinov2-base"),
    "dinov3": Family("DINOv3ViTModel", *IMAGENET, "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    "siglip2": Family("SiglipVisionModel", *HALF, "google/siglip2-base-patch16-256", flexible=True),
    "clip": Family("CLIPVisionModel", *CLIP, "openai/clip-vit-large-patch14", flexible=True),
    "vjepa2": Family("VJEPA2Model", *IMAGENET, "facebook/vjepa2-vitl-fpc64-256", video=True),
}


class Teacher(nn.Module):
    """A frozen encoder, always in eval mode.

    It maps images (B, 3, H, W) in [-1, 1] to a feature map (B, C, h, w) fp32.
    """

    weights_sha256: str

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode."""
        return super().train(False)


class PackagedTeacher(Teacher):
    """A block of EfficientNet-Lite0: `layer` is 0 to 10, or -1 for 10."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.encoder = efficientnet.build_encoder()
        self.weights_sha256 = self.encoder.weights_sha256
        self.size = config.input_size
        self.block = efficientnet.BLOCK if config.layer == -1 else config.layer
        if not 0 <= self.block <= efficientnet.BLOCK:
            raise InputError(
                f"teacher efficientnet-lite0: layer {config.layer}: "
                f"it has blocks 0 to {efficientnet.BLOCK}, -1 is the last"
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.encoder(images, self.size, self.block)
        return result


class TransformersTeacher(Teacher):
    """Patch tokens of a hidden state of a vision transformer.

    `layer` is 0 for the embeddings and -1 for the output, after the final norm if there is one.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.family = FAMILIES[config.name]
        self.size = config.input_size
        self.layer = config.layer
        self.weights_sha256 = config.sha256
        require_file(
            f"{config.path}/model.safetensors" if config.path else "",
            config.sha256,
            f"teacher.encoders[{config.name}]",
            f"download config.json and model.safetensors of huggingface.co/{self.family.source} "
            "into a folder and name it in teacher.encoders[].path",
        )
        self.model = _load(config, self.family)
        settings: Any = self.model.config
        shape = settings.patch_size
        self.patch = int(shape[0] if isinstance(shape, list | tuple) else shape)
        depth = int(settings.num_hidden_layers)
        if not -1 <= self.layer <= depth:
            raise InputError(
                f"teacher {config.name}: layer {self.layer}: "
                f"it has hidden states 0 to {depth}, -1 is the output"
            )
        if self.size % self.patch:
            raise InputError(
                f"teacher {config.name}: input_size {self.size} is not a multiple of "
                f"its patch size {self.patch}"
            )
        for name, values in (("mean", self.family.mean), ("std", self.family.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (efficientnet.resize(images, self.size) * 0.5 + 0.5 - self.mean) / self.std
        options: dict[str, Any] = {"output_hidden_states": self.layer != -1}
        if self.family.flexible:
            options["interpolate_pos_encoding"] = True
        if self.family.video:  # two equal frames make one tubelet
            output = self.model(
                pixel_values_videos=x[:, None].expand(-1, 2, -1, -1, -1),
                skip_predictor=True,
                **options,
            )
        else:
            output = self.model(pixel_values=x, **options)
        states = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        side = self.size // self.patch
        patches = states[:, -side * side :]  # class and register tokens come first
        result: torch.Tensor = patches.float().transpose(1, 2).unflatten(2, (side, side))
        return result


def _load(config: TeacherConfig, family: Family) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    try:
        model, report = getattr(transformers, family.model).from_pretrained(
            config.path,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation="sdpa",
        )
    except Exception as error:  # damaged files raise errors of many types
        raise InputError(
            f"teacher {config.name}: {config.path}: {' '.join(str(error).split())[:300]}"
        ) from None
    missing = sorted(key for key in report["missing_keys"] if "predictor" not in key)
    if missing:
        raise InputError(
            f"teacher {config.name}: {config.path} lacks {len(missing)} weights, "
            f"first {missing[0]}: is it a {family.model}?"
        )
    result: nn.Module = model
    return result


def build_teacher(config: TeacherConfig) -> Teacher:
    """Return the teacher that a config names.

    Raises:
        InputError: if its weights are absent, have another sha256, or lack the layer.
    """
    return PackagedTeacher(config) if config.name == PACKAGED else TransformersTeacher(config)


def on_grid(features_BChw: torch.Tensor, grid: int) -> torch.Tensor:
    """Return features on the token grid, (B, grid * grid, C) in raster order.

    They are average-pooled if the grid is not finer than the features, else interpolated
    bilinearly.
    """
    if features_BChw.shape[-1] >= grid:
        resized = F.adaptive_avg_pool2d(features_BChw, grid)
    else:
        resized = F.interpolate(
            features_BChw, size=(grid, grid), mode="bilinear", align_corners=False
        )
    return resized.flatten(2).transpose(1, 2)


def spatial_normalise(features_BLC: torch.Tensor, mode: str) -> torch.Tensor:
    """Return features z, (B, L, C), after spatial normalization.

    mode: "none" for z; "mean" for z - 0.6 mean_l z; "standard" for that divided by the standard
        deviation of each channel over positions.
    """
    if mode == "none":
        return features_BLC
    centred = features_BLC - SPATIAL_SHARE * features_BLC.mean(1, keepdim=True)
    return centred if mode == "mean" else centred / (features_BLC.std(1, keepdim=True) + 1e-6)
