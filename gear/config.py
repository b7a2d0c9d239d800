"""`params.yaml` as frozen models: every setting, its range and one sentence about it.

Unknown keys are refused. A bad file raises `BadInput` with one line: the key, the value, what is allowed.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gear.paths import PARAMS

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class BadInput(ValueError):
    """The user's mistake: printed as one line, exit code 2."""


class StageFailed(RuntimeError):
    """A stage stopped on purpose for a reason it can name: printed as one line, exit code 1."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


Model = TypeVar("Model", bound=Section)


class RunConfig(Section):
    """What all stages share."""

    seed: Count = Field(description="Seed of every random draw in the run.")
    device: Literal["auto", "cpu", "cuda"] = Field(description="Where to compute; auto takes a GPU if there is one.")


class DataConfig(Section):
    """Where images come from and how they become shards."""

    source: Literal["openmoji", "folder", "webdataset", "huggingface"] = Field(
        description="`openmoji` (packaged), `folder` (<root>/<class>/<file>), `webdataset` (tar shards) or `huggingface` (a dataset on disk)."
    )
    root: str = Field("", description="Folder of every source but the packaged one.")
    condition: Literal["class", "caption"] = Field("class", description="What the generator is given: the class, or the caption.")
    caption_key: str = Field("caption", description="Column or JSON key of the caption (webdataset, huggingface).")
    max_duplicate_captions: Share = Field(0.5, description="Share of captions that repeat another's above which the gate closes.")
    size: Literal[16, 32, 64, 128, 256, 512] = Field(description="Side of the square training images, pixels.")
    val_share: Annotated[float, Field(gt=0, lt=1)] = Field(description="Share of concepts held out for validation.")
    limit: Count = Field(0, description="Use at most this many images, spread over the classes; 0 for all.")
    flip: bool = Field(description="Mirror images at random in training; off where mirror images differ.")
    max_reject_share: Share = Field(description="Share of unreadable files above which ingest fails.")
    workers: Positive = Field(2, description="Decoding processes of ingest.")


class WeightsConfig(Section):
    """A local weights file that a run may use, pinned."""

    path: str = Field("", description="File on this machine; empty for none.")
    sha256: str = Field("", description="What its sha256 must be.")


class TeacherConfig(Section):
    """A frozen encoder whose patch features guide the tokenizer and generator."""

    name: Literal["efficientnet-lite0", "dinov2", "dinov3", "siglip2", "clip", "vjepa2"] = Field(
        description="Encoder; the first comes with the packages, the others need `path`."
    )
    input_size: Annotated[int, Field(ge=32)] = Field(description="Side of its input, pixels.")
    layer: Annotated[int, Field(ge=-1)] = Field(-1, description="Block or hidden state that is read; -1 for the last.")
    spatial: Literal["none", "mean", "standard"] = Field(
        "none", description="Take 0.6 of the mean token away; `standard` also divides by the deviation over positions."
    )
    path: str = Field("", description="Folder of config.json and model.safetensors.")
    sha256: str = Field("", description="What the sha256 of model.safetensors must be.")


class TeachersConfig(Section):
    """The teachers; with several, the alignment loss is their mean."""

    encoders: tuple[TeacherConfig, ...] = Field(min_length=1, description="One or more encoders.")


class TextConfig(Section):
    """The frozen text encoder of captions (GEAR, Text-to-image); unused where data.condition is class."""

    encoder: Literal["minilm", "qwen3", "t5"] = Field("minilm", description="`minilm` comes with the packages, the others need `path`.")
    tokens: Annotated[int, Field(ge=2, le=512)] = Field(32, description="Tokens of a caption, at most; what is longer is cut.")
    path: str = Field("", description="Folder of config.json, tokenizer and *.safetensors.")
    sha256: str = Field("", description="What the sha256 of its *.safetensors, in the order of their names, must be.")


class TokenizerConfig(Section):
    """The autoencoder and its warm-up (GEAR, Quantizers and Backbones)."""

    quantizer: Literal["vq", "lfq", "ibq"] = Field(description="Quantizer, and with it the backbone: MAGVIT-2's for lfq.")
    codes: Annotated[int, Field(ge=2, le=2**18)] = Field(description="Codebook size K.")
    code_dim: Positive = Field(description="Code width D.")
    base: Annotated[int, Field(ge=8, multiple_of=8)] = Field(description="Channels of the first level.")
    multipliers: tuple[Positive, ...] = Field(min_length=2, description="Channels a level in units of base; f = 2^(levels-1).")
    blocks: Positive = Field(description="Residual blocks a level in the encoder; the decoder has one more.")
    z_channels: Positive = Field(description="Channels of the latent before the 1x1 conv to code_dim.")
    steps: Count = Field(description="Warm-up steps; may be 0 where `init` names a tokenizer.")
    init: WeightsConfig = Field(
        default_factory=lambda: WeightsConfig(path="", sha256=""),
        description="Native tokenizer to start from (`gear import` makes one): its model.safetensors.",
    )
    batch: Positive = Field(description="Images a step over all ranks.")
    lr: Rate = Field(description="AdamW learning rate in warm-up.")

    @model_validator(mode="after")
    def _lfq(self) -> TokenizerConfig:
        if not self.steps and not self.init.path:
            raise ValueError("steps 0 leaves the tokenizer at random: name one in init.path, or warm it up")
        if self.quantizer == "lfq" and not (2**self.code_dim == self.codes and self.z_channels == self.code_dim):
            wanted = max(1, (self.codes - 1).bit_length())
            raise ValueError(
                f"lfq's codes are the signs of its latent channels: set code_dim and z_channels to {wanted} and codes to {2**wanted}"
            )
        return self

    @property
    def factor(self) -> int:
        """Downsampling factor f."""
        return 2 ** (len(self.multipliers) - 1)


class LossConfig(Section):
    """Weights of the tokenizer's loss (GEAR, Tokenizer loss)."""

    l1: Weight = Field(1.0, description="Absolute error of pixels.")
    perceptual: Weight = Field(
        1.0, description="LPIPS where `vgg16` names weights, else distance of the packaged encoder's early features."
    )
    vgg16: WeightsConfig = Field(
        default_factory=lambda: WeightsConfig(path="", sha256=""),
        description="torchvision's VGG16 weights (vgg16-397923af.pth), for LPIPS.",
    )
    codebook: Weight = Field(1.0, description="Codes towards latents.")
    commitment: Weight = Field(0.25, description="Latents towards codes.")
    entropy: Weight = Field(0.05, description="Sharp assignments, even use of codes.")
    adversarial: Weight = Field(0.1, description="Weight of the discriminator's verdict.")
    adaptive: bool = Field(False, description="Scale the verdict to the reconstruction's gradient at the decoder's last layer.")


class GanConfig(Section):
    """PatchGAN discriminator of the tokenizer's stages."""

    start_step: Count = Field(
        description="Tokenizer step (warm-up and joint counted together) at which it joins; a number past the end leaves it out."
    )
    filters: Positive = Field(description="Channels of the discriminator's first layer.")
    layers: Positive = Field(description="Strided layers.")
    lr: Rate = Field(description="AdamW learning rate.")
    lecam: Weight = Field(0.0, description="Weight of LeCam regularisation; for small data.")


class GeneratorConfig(Section):
    """The autoregressive transformer and its stage-2 steps (GEAR, Generator)."""

    layers: Positive = Field(description="Transformer blocks.")
    heads: Positive = Field(description="Attention heads.")
    width: Positive = Field(description="Model width d.")
    tap: Positive = Field(description="Blocks before the residual stream is read for alignment.")
    dropout: Share = Field(0.1, description="On tokens, residual and feed-forward; none in attention.")
    class_dropout: Share = Field(0.1, description="Probability of the null class, or the empty caption, in training.")
    prefix_rope: Literal["identity", "zero"] = Field(
        "identity", description="Rotation of prefix positions; `zero` only to run public weights."
    )
    checkpointing: bool = Field(False, description="Recompute blocks in the backward pass: less memory, a third more time.")
    projector_hidden: Positive = Field(2048, description="Hidden width of the alignment projector.")
    start: Literal["joint", "scratch"] = Field("joint", description="Stage 2 trains the joint stage's generator on, or a fresh one.")
    steps: Count = Field(description="Steps of the generator alone on the frozen tokenizer; may be 0.")

    @model_validator(mode="after")
    def _shapes(self) -> GeneratorConfig:
        if self.start == "scratch" and not self.steps:
            raise ValueError("start: scratch with steps: 0 would sample from random weights: give it steps")
        if self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 4 x heads ({self.heads}): 2-D rotary positions need it")
        if self.tap > self.layers:
            raise ValueError(f"tap {self.tap} is past the last of {self.layers} layers")
        return self


class SupportConfig(Section):
    """A temperature given by what it does."""

    support: Annotated[float, Field(gt=1)] = Field(description="Codes a token's soft assignment effectively spreads over, exp(H).")


class JointConfig(Section):
    """The joint stage (GEAR, One training step)."""

    recipe: Literal["gear", "soft_hard_forward", "llamagen_repa", "llamagen", "continued", "ste"] = Field(
        description="Which losses reach which module: docs/recipes.md."
    )
    steps: Positive = Field(description="Optimiser steps.")
    batch: Positive = Field(description="Images a step over all ranks.")
    temperature: Annotated[float, Field(gt=0)] | SupportConfig = Field(
        description="tau of the soft assignment softmax(-d / tau), or {support: N} to calibrate it on the warm tokenizer."
    )
    lambda_tok: Weight = Field(description="Weight of the soft alignment in the tokenizer's loss.")
    lambda_ar: Weight = Field(description="Weight of the hard alignment in the generator's loss.")
    lr_tokenizer: Rate = Field(description="AdamW learning rate of the tokenizer.")
    lr_generator: Rate = Field(description="AdamW learning rate of generator and projector.")
    fd_every: Count = Field(0, description="Steps between Fréchet distances of fresh samples, for the curve; 0 for none.")
    fd_n: Annotated[int, Field(ge=2)] = Field(448, description="Samples of each of them.")


class TrainConfig(Section):
    """What every training stage shares."""

    warmup: Count = Field(description="Steps of linear learning-rate warm-up; constant after.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(description="Decay of the averaged weights, tokenizer and generator alike.")
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Gradient norm limit of each module.")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.999, description="AdamW's second decay; published baselines did best at 0.95.")
    weight_decay: Weight = Field(0.0, description="AdamW weight decay of every module; published baselines did best at 0.05.")
    bf16: bool = Field(description="bf16 autocast; distances stay in fp32.")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage.")
    log_every: Positive = Field(description="Steps between log lines.")
    checkpoint_every: Positive = Field(description="Steps between resumable states.")


class SampleConfig(Section):
    """How images are drawn from the generator."""

    n: Positive = Field(description="Images, balanced over classes.")
    batch: Positive = Field(description="Images at a time; does not change the result.")
    guidance: Annotated[float, Field(ge=1)] = Field(description="Classifier-free guidance scale; 1 is none.")
    interval: tuple[Share, Share] = Field((0.0, 1.0), description="Shares of the sequence between which guidance holds.")
    temperature: Annotated[float, Field(gt=0)] = Field(description="Softmax temperature.")
    top_k: Count = Field(0, description="Keep the k likeliest codes; 0 for all.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Keep the likeliest codes up to this mass; 1 for all.")
    prompts: tuple[str, ...] = Field((), description="Captions drawn for the report beside the validation captions (condition caption).")

    @model_validator(mode="after")
    def _rising(self) -> SampleConfig:
        if self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval {list(self.interval)}: the first share must be under the second")
        return self


class EvaluateConfig(Section):
    """The evaluation protocol."""

    neighbours: Positive = Field(description="k of the coverage and recall manifolds.")
    input_size: Annotated[int, Field(ge=32, multiple_of=16)] = Field(128, description="Side of the FD extractor's input, pixels.")
    guidances: tuple[Annotated[float, Field(ge=1)], ...] = Field((), description="Guidance scales of the sweep; none, no sweep.")
    guidance_n: Annotated[int, Field(ge=2)] = Field(448, description="Samples at each scale of the sweep.")
    clip: WeightsConfig = Field(
        default_factory=lambda: WeightsConfig(path="", sha256=""),
        description="CLIP's model.safetensors, in a folder with its config and processor, for CLIPScore (condition caption).",
    )
    inception: WeightsConfig = Field(
        default_factory=lambda: WeightsConfig(path="", sha256=""),
        description="torch-fidelity's Inception weights (weights-inception-2015-12-05-6726825d.pth), for FID, sFID, IS, precision, recall.",
    )
    reference: WeightsConfig = Field(
        default_factory=lambda: WeightsConfig(path="", sha256=""),
        description="Reference batch (.npz with mu, sigma, mu_s, sigma_s) for FID and sFID; empty for the training images.",
    )

    @model_validator(mode="after")
    def _reference(self) -> EvaluateConfig:
        if self.reference.path and not self.inception.path:
            raise ValueError("reference holds Inception's statistics: name the weights in inception.path too")
        return self


class HealthConfig(Section):
    """When training stops because the codebook collapses."""

    min_usage: Share = Field(description="Least share of codes in use over a health window.")
    min_perplexity: Share = Field(description="Least perplexity over a health window, as a share of K.")
    window: Positive = Field(description="Steps a health window.")
    after_step: Count = Field(description="First step at which the gate may stop a run.")


class Config(Section):
    """The whole of params.yaml."""

    run: RunConfig
    data: DataConfig
    text: TextConfig = Field(default_factory=lambda: TextConfig.model_validate({}))
    teacher: TeachersConfig
    tokenizer: TokenizerConfig
    loss: LossConfig
    gan: GanConfig
    generator: GeneratorConfig
    joint: JointConfig
    train: TrainConfig
    sample: SampleConfig
    evaluate: EvaluateConfig
    health: HealthConfig

    @model_validator(mode="after")
    def _grid(self) -> Config:
        if self.data.source != "openmoji" and not self.data.root:
            raise ValueError(f"data.source is {self.data.source} and data.root is empty: name the folder that holds it")
        if self.sample.prompts and self.data.condition == "class":
            raise ValueError("sample.prompts are captions and data.condition is class: set it to caption, or remove them")
        if self.loss.adaptive and self.train.zero_stage == 3:
            raise ValueError("loss.adaptive needs the decoder's last weights whole: use train.zero_stage 2 or less")
        if self.data.size // self.tokenizer.factor < 2:
            raise ValueError(
                f"data.size {self.data.size} over tokenizer factor {self.tokenizer.factor} leaves no grid: use fewer multipliers"
            )
        return self

    @property
    def grid(self) -> int:
        """Side of the token grid; L = grid^2."""
        return self.data.size // self.tokenizer.factor


def _one_line(error: ValidationError, where: str) -> str:
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")  # a typo explains the key that is missing
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}: {_allowed_keys(first['loc'])}{more}"
    if first["type"] == "missing":
        return f"{where}: missing key {key!r}{more}"
    value = "" if first["type"] == "value_error" else f" = {first['input']!r}"
    return f"{where}: {key}{value}: {first['msg'].removeprefix('Value error, ')}{more}"


def _allowed_keys(loc: tuple[Any, ...]) -> str:
    model: Any = Config
    for part in loc[:-1]:
        inner = model.model_fields[str(part)].annotation if str(part) in getattr(model, "model_fields", {}) else model
        model = next((m for m in (inner, *get_args(inner)) if isinstance(m, type) and issubclass(m, Section)), inner)
    if not hasattr(model, "model_fields"):
        return "it is not a setting"
    close = get_close_matches(str(loc[-1]), model.model_fields, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(model.model_fields)}"


def section(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """A section of settings from elsewhere than params.yaml; `where` stands before the key in errors. Raises `BadInput`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}{key}: {first['msg'].removeprefix('Value error, ')}") from None


def parse(text: str, where: str = str(PARAMS)) -> Config:
    """Configuration of a YAML text; `where` names it in errors. Raises `BadInput`."""
    try:
        return Config.model_validate(yaml.safe_load(text) or {})
    except ValidationError as error:
        raise BadInput(_one_line(error, where)) from None
    except yaml.YAMLError as error:
        raise BadInput(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def load(path: Path = PARAMS) -> Config:
    """Configuration of a params file. Raises `BadInput`."""
    try:
        text = path.read_text()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}: write it with `gear preset quickstart`") from None
    return parse(text, str(path))
