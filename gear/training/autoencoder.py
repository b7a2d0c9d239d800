"""Training step of the tokenizer and its discriminator: updates 1 and 2 of a GEAR step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from gear.core.model_folder import load_weights
from gear.encoders.efficientnet import build_encoder
from gear.losses.adversarial import (
    Lecam,
    PatchDiscriminator,
    adaptive_weight,
    gradient_ratio,
    hinge_discriminator,
    hinge_generator,
    last_layer_gradients,
)
from gear.losses.config import GanConfig, LossConfig
from gear.losses.perceptual import EarlyFeaturesLoss, LpipsLoss
from gear.tokenizer.assignment import mean_over_ranks, straight_through
from gear.tokenizer.model import Tokenizer, TokenizerOutput
from gear.tokenizer.quantizers import Quantized
from gear.training.batches import Batch
from gear.training.engine import frozen, update_weights
from gear.training.run import TrainingRun

Losses = dict[str, torch.Tensor]
Weighted = dict[str, tuple[float, torch.Tensor]]  # weight and value of losses, by name
Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Takes the batch, its assignment, the tokenizer's loss so far and the losses to log; yields the
# loss to minimise. The update happens inside its block, so that it may freeze other modules.
ExtraLoss = Callable[
    [Batch[Any], Quantized, torch.Tensor, Losses], AbstractContextManager[torch.Tensor]
]


def no_extra_loss(
    batch: Batch[Any], quantized: Quantized, total: torch.Tensor, losses: Losses
) -> AbstractContextManager[torch.Tensor]:
    """Leave the tokenizer's loss as it is."""
    return nullcontext(total)


@dataclass(frozen=True)
class BatchStatistics:
    """Values measured over a whole batch before its micro-batches are trained on."""

    adaptive_weight: torch.Tensor | None


class AutoencoderStep:
    """One training step of the tokenizer, and of the discriminator once it has joined.

    engine: DeepSpeed engine of the tokenizer.
    gan_from: first step at which the discriminator takes part.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: Any,
        loss: LossConfig,
        gan: GanConfig,
        *,
        bf16: bool,
        perceptual: Perceptual | None = None,
        discriminator_engine: Any = None,
        gan_from: int = 0,
    ) -> None:
        self.tokenizer, self.engine = tokenizer, engine
        self.loss, self.gan, self.bf16 = loss, gan, bf16
        self.perceptual = perceptual
        self.discriminator_engine, self.gan_from = discriminator_engine, gan_from
        self.lecam = Lecam(next(tokenizer.parameters()).device)
        self.batch_statistics: BatchStatistics | None = None

    @property
    def engines(self) -> dict[str, Any]:
        """The engines by name."""
        engines = {"tokenizer": self.engine}
        if self.discriminator_engine is not None:
            engines["discriminator"] = self.discriminator_engine
        return engines

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs besides weights and optimizers."""
        return {"lecam": self.lecam.anchors}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Load a saved `state`."""
        self.lecam.anchors.copy_(state["lecam"])

    def __call__(self, batch: Batch[Any], step: int) -> tuple[Losses, torch.Tensor]:
        """Train one step. Returns detached scalar losses and the hard indices, (B, L) int64."""
        losses: Losses = {}
        indices_BL = self.update(batch, step, losses)
        return {name: value.detach() for name, value in losses.items()}, indices_BL

    def is_adversarial(self, step: int) -> bool:
        """Return whether the discriminator takes part in a step."""
        return self.discriminator_engine is not None and step >= self.gan_from

    def measure_batch(self, micro_batches: list[Batch[Any]], step: int) -> None:
        """Measure what losses need of a whole batch before gradients of micro-batches accumulate.

        These are the mean assignment for the entropy loss, the adaptive weight and LeCam's anchors.
        It costs another forward pass over the micro-batches.
        """
        judged = self.is_adversarial(step) and (self.loss.adaptive or self.gan.lecam > 0)
        if not (self.loss.entropy or judged):
            return
        adaptive = judged and self.loss.adaptive
        assignments: list[torch.Tensor] = []
        logits: list[torch.Tensor] = []  # of the discriminator: means over originals and copies
        gradients: list[torch.Tensor] = []

        def record(mean_K: torch.Tensor) -> torch.Tensor:
            assignments.append(mean_K.detach())
            return mean_K

        self.tokenizer.quantize.mean_over_batch = record
        last_layer = self.tokenizer.decoder.conv_out.weight
        for images in (micro_batch.images() for micro_batch in micro_batches):
            with frozen(self.tokenizer), torch.set_grad_enabled(adaptive):
                last_layer.requires_grad_(adaptive)
                with autocast(images, self.bf16):
                    reconstruction = self.tokenizer(images).reconstruction.float()
                if not judged:
                    continue
                discriminator = self.discriminator_engine.module
                with frozen(discriminator), autocast(images, self.bf16):
                    on_real, on_fake = discriminator(torch.cat([images, reconstruction])).chunk(2)
                logits.append(torch.stack([on_real.float().mean(), on_fake.float().mean()]))
                if adaptive:
                    losses = self.reconstruction_losses(reconstruction, images)
                    rebuilt = torch.stack([weight * value for weight, value in losses.values()])
                    adversarial = hinge_generator(on_fake)
                    gradients.append(last_layer_gradients(rebuilt.sum(), adversarial, last_layer))
        with torch.enable_grad():
            whole_K = mean_over_ranks(torch.stack(assignments).mean(0))
        self.tokenizer.quantize.mean_over_batch = lambda mean_K: straight_through(whole_K, mean_K)
        if judged and self.gan.lecam:
            self.lecam.move(torch.stack(logits).detach().mean(0))
        factor = gradient_ratio(torch.stack(gradients).mean(0)) if adaptive else None
        self.batch_statistics = BatchStatistics(factor)

    def update(
        self,
        batch: Batch[Any],
        step: int,
        losses: Losses,
        extra_loss: ExtraLoss = no_extra_loss,
    ) -> torch.Tensor:
        """Do updates 1 and 2, adding to `losses`. Returns the hard indices, (B, L) int64."""
        adversarial = self.is_adversarial(step)
        output = self.engine(batch.images())
        self.update_tokenizer(batch, output, losses, extra_loss, adversarial=adversarial)
        if adversarial:
            self.update_discriminator(batch, output.reconstruction.detach(), losses)
        indices_BL: torch.Tensor = output.quantized.indices
        return indices_BL

    def update_tokenizer(
        self,
        batch: Batch[Any],
        output: TokenizerOutput,
        losses: Losses,
        extra_loss: ExtraLoss = no_extra_loss,
        *,
        adversarial: bool = False,
    ) -> None:
        """Do update 1: train the tokenizer on its own, adversarial and extra losses."""
        reconstruction = output.reconstruction.float()
        rebuilt = self.reconstruction_losses(reconstruction, batch.images())
        parts = self.own_losses(rebuilt, output.quantized)
        if adversarial:
            terms = [weight * value for weight, value in rebuilt.values()]
            value = self.adversarial_loss(reconstruction, terms, losses)
            parts["adversarial"] = (self.loss.adversarial, value)
        total = weighted_sum(parts)
        losses.update({f"loss/{name}": value for name, (_, value) in parts.items()})
        with extra_loss(batch, output.quantized, total, losses) as total:
            update_weights(self.engine, total, "tokenizer", batch.keys)

    def own_loss(
        self, reconstruction: torch.Tensor, images: torch.Tensor, quantized: Quantized
    ) -> torch.Tensor:
        """Return the tokenizer's loss without the adversarial and the extra loss, a scalar."""
        rebuilt = self.reconstruction_losses(reconstruction, images)
        return weighted_sum(self.own_losses(rebuilt, quantized))

    def own_losses(self, rebuilt: Weighted, quantized: Quantized) -> Weighted:
        """Return the reconstruction and quantizer losses with their weights, by name."""
        weights = self.loss
        return {
            "l1": rebuilt["l1"],
            "codebook": (weights.codebook, quantized.codebook_loss),
            "commitment": (weights.commitment, quantized.commitment_loss),
            "entropy": (weights.entropy, quantized.entropy_loss),
            **rebuilt,
        }

    def reconstruction_losses(self, reconstruction: torch.Tensor, images: torch.Tensor) -> Weighted:
        """Return the L1 and perceptual losses with their weights; they set the adaptive weight."""
        losses = {"l1": (self.loss.l1, F.l1_loss(reconstruction, images))}
        if self.perceptual is not None and self.loss.perceptual:
            losses["perceptual"] = (self.loss.perceptual, self.perceptual(reconstruction, images))
        return losses

    def adversarial_loss(
        self, reconstruction: torch.Tensor, rebuilt: list[torch.Tensor], losses: Losses
    ) -> torch.Tensor:
        """Return the adversarial loss of a reconstruction, with the discriminator frozen.

        If `loss.adaptive`, its gradient is scaled to that of the reconstruction losses `rebuilt`.
        """
        discriminator = self.discriminator_engine.module
        with frozen(discriminator), autocast(reconstruction, self.bf16):
            loss = hinge_generator(discriminator(reconstruction))
            if self.loss.adaptive:
                last_layer = self.tokenizer.decoder.conv_out.weight
                factor = self.batch_statistics.adaptive_weight if self.batch_statistics else None
                if factor is None:
                    factor = adaptive_weight(torch.stack(rebuilt).sum(), loss, last_layer)
                losses["gan/adaptive_weight"] = factor
                loss = factor * loss
        return loss

    def update_discriminator(self, batch: Batch[Any], fake: torch.Tensor, losses: Losses) -> None:
        """Do update 2: train the discriminator to tell images from reconstructions."""
        engine = self.discriminator_engine
        on_real, on_fake = engine(torch.cat([batch.images(), fake])).chunk(2)
        loss = losses["loss/discriminator"] = hinge_discriminator(on_real, on_fake)
        if self.gan.lecam:
            penalty = self.lecam.penalty if self.batch_statistics else self.lecam
            losses["loss/lecam"] = penalty(on_real, on_fake)
            loss = loss + self.gan.lecam * losses["loss/lecam"]
        update_weights(engine, loss, "discriminator", batch.keys)


def weighted_sum(parts: Weighted) -> torch.Tensor:
    """Return the sum of weight times value over the losses, a scalar; one of them is `l1`."""
    start = torch.zeros((), device=parts["l1"][1].device)
    return sum((weight * value for weight, value in parts.values()), start)


def autocast(like: torch.Tensor, bf16: bool) -> AbstractContextManager[None]:
    """Return the bf16 autocast of a forward pass without its engine, which has its own."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=bf16)


def build_autoencoder(
    training: TrainingRun,
    tokenizer: Tokenizer,
    loss: LossConfig,
    gan: GanConfig,
    *,
    lr: float,
    earlier_steps: int = 0,
    discriminator: Path | None = None,
) -> AutoencoderStep:
    """Return the training step of a tokenizer and, if it joins in this training, a discriminator.

    Args:
        training: Settings, ranks and state of the training.
        tokenizer: The tokenizer.
        loss: Weights of its loss.
        gan: The discriminator's settings; `gan.start_step` counts the earlier steps too.
        lr: Learning rate of the tokenizer.
        earlier_steps: Steps that the tokenizer was trained for before.
        discriminator: Folder of an earlier training's discriminator; it need not exist.
    """
    engine = training.engine(tokenizer.train(), lr)
    discriminator_engine = None
    if loss.adversarial and gan.start_step < earlier_steps + training.settings.steps:
        judge = PatchDiscriminator(gan.filters, gan.layers).to(training.device)
        if discriminator is not None and discriminator.exists():
            load_weights(judge, discriminator)
        discriminator_engine = training.engine(judge, gan.lr)
    return AutoencoderStep(
        tokenizer,
        engine,
        loss,
        gan,
        bf16=training.settings.train.bf16,
        perceptual=build_perceptual(loss, training.device),
        discriminator_engine=discriminator_engine,
        gan_from=max(0, gan.start_step - earlier_steps),
    )


def build_perceptual(loss: LossConfig, device: torch.device) -> Perceptual | None:
    """Return LPIPS if `loss.vgg16.path` is set, else EfficientNet's loss; None if unused."""
    if not loss.perceptual:
        return None
    if loss.vgg16.path:
        return LpipsLoss(loss.vgg16).to(device)
    return EarlyFeaturesLoss(build_encoder()).to(device)
