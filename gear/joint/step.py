"""TODO."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from gear.joint.alignment import alignment_loss
from gear.joint.recipes import Recipe
from gear.joint.soft_readout import soft_tokens, straight_through_ntp
from gear.losses.adversarial import Lecam, adaptive_weight, hinge_discriminator, hinge_generator
from gear.params import Config
from gear.tokenizer.model import Tokenizer, TokenizerOutput
from gear.training.autoencoder import Losses, NonFinite
from gear.training.batches import Batch
from gear.training.engine import frozen


class JointStep:
    """The three updates over whichever engines a stage has."""

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        *,
        tokenizer: Tokenizer,
        perceptual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
        tokenizer_engine: Any = None,
        generator_engine: Any = None,
        discriminator_engine: Any = None,
        gan_from: int = 0,
        temperature: float = 1.0,
    ) -> None:
        self.config, self.recipe = config, recipe
        self.tokenizer, self.perceptual, self.temperature = tokenizer, perceptual, temperature
        self.tokenizer_engine, self.generator_engine = tokenizer_engine, generator_engine
        self.discriminator_engine, self.gan_from = discriminator_engine, gan_from
        self.lecam = Lecam(next(tokenizer.parameters()).device)

    def state(self) -> dict[str, torch.Tensor]:
        """What of the step itself a resumed run needs."""
        return {"lecam": self.lecam.anchors}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take up a saved `state`."""
        self.lecam.anchors.copy_(state["lecam"])

    @property
    def teachers(self) -> tuple[int, ...]:
        """Widths of the teachers, in the order of the features' channels."""
        return self.generator_engine.module.projector.teachers

    @property
    def engines(self) -> dict[str, Any]:
        """The engines of this stage by name."""
        named = {
            "tokenizer": self.tokenizer_engine,
            "generator": self.generator_engine,
            "discriminator": self.discriminator_engine,
        }
        return {name: engine for name, engine in named.items() if engine is not None}

    def __call__(self, batch: Batch, step: int) -> tuple[Losses, torch.Tensor]:
        """Do one step. Returns detached scalar losses and the hard indices, (B, L) int64."""
        losses: Losses = {}
        if self.tokenizer_engine is not None:
            output = self.tokenizer_engine(batch.images())
            self._update_tokenizer(batch, output, losses, gan=self._gan(step))
            if self._gan(step):
                self._update_discriminator(batch, output.reconstruction.detach(), losses)
            indices = output.quantized.indices
        elif batch.tokens_BL is not None:
            indices = batch.tokens_BL
        else:
            with torch.no_grad():
                indices = self.tokenizer.encode(batch.images()).indices
        if self.generator_engine is not None:
            self._update_generator(batch, indices, losses)
        return {name: value.detach() for name, value in losses.items()}, indices

    def _autocast(self, like: torch.Tensor) -> AbstractContextManager[None]:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.config.train.bf16)

    def _gan(self, step: int) -> bool:
        return self.discriminator_engine is not None and step >= self.gan_from

    def _update_tokenizer(
        self, batch: Batch, output: TokenizerOutput, losses: Losses, *, gan: bool
    ) -> None:
        weights, quantized = self.config.loss, output.quantized
        reconstruction = output.reconstruction.float()
        parts = {
            "l1": (weights.l1, F.l1_loss(reconstruction, batch.images())),
            "codebook": (weights.codebook, quantized.codebook_loss),
            "commitment": (weights.commitment, quantized.commitment_loss),
            "entropy": (weights.entropy, quantized.entropy_loss),
        }
        if self.perceptual is not None and weights.perceptual:
            parts["perceptual"] = (
                weights.perceptual,
                self.perceptual(reconstruction, batch.images()),
            )
        if gan:
            discriminator = self.discriminator_engine.module
            with frozen(discriminator), self._autocast(reconstruction):
                verdict = hinge_generator(discriminator(reconstruction))
                parts["adversarial"] = (weights.adversarial, verdict)
                if weights.adaptive:
                    rebuilt = torch.stack(
                        [
                            w * value
                            for name, (w, value) in parts.items()
                            if name in ("l1", "perceptual")
                        ]
                    ).sum()
                    factor = adaptive_weight(
                        rebuilt, verdict, self.tokenizer.decoder.conv_out.weight
                    )
                    losses["gan/adaptive_weight"] = factor
                    parts["adversarial"] = (weights.adversarial, factor * verdict)
        losses.update({f"loss/{name}": value for name, (_, value) in parts.items()})
        total = sum(
            (weight * value for weight, value in parts.values()),
            torch.zeros((), device=reconstruction.device),
        )

        if self.recipe.readout == "none" or self.generator_engine is None:
            self._step(self.tokenizer_engine, total, "tokenizer", batch)
            return
        guided = self.generator_engine.module
        with frozen(
            guided
        ):  # the raw module: its engine must not see this pass; backward stays inside
            tokens = partial(
                soft_tokens, quantized, temperature=self.temperature, readout=self.recipe.readout
            )
            with self._autocast(reconstruction):  # the engine's own does not cover a pass beside it
                generated, projected = guided(
                    tokens, batch.given(), tap_only=not self.recipe.ntp_to_tokenizer
                )
            soft = alignment_loss(projected, batch.teacher(), self.teachers)
            losses["loss/align_soft"] = soft
            total = total + self.config.joint.lambda_tok * soft
            if self.recipe.ntp_to_tokenizer:
                losses["loss/ntp_tokenizer"] = straight_through_ntp(
                    generated.logits, quantized, self.temperature
                )
                total = total + losses["loss/ntp_tokenizer"]
            self._step(self.tokenizer_engine, total, "tokenizer", batch)

    def _update_discriminator(self, batch: Batch, fake: torch.Tensor, losses: Losses) -> None:
        engine = self.discriminator_engine
        verdicts = engine(torch.cat([batch.images(), fake]))
        on_real, on_fake = verdicts.chunk(2)
        loss = losses["loss/discriminator"] = hinge_discriminator(on_real, on_fake)
        if self.config.gan.lecam:
            losses["loss/lecam"] = self.lecam(on_real, on_fake)
            loss = loss + self.config.gan.lecam * losses["loss/lecam"]
        self._step(engine, loss, "discriminator", batch)

    def _update_generator(self, batch: Batch, indices_BL: torch.Tensor, losses: Losses) -> None:
        output, projected = self.generator_engine(indices_BL, batch.given())
        total = losses["loss/ntp"] = F.cross_entropy(
            output.logits.float().flatten(0, 1), indices_BL.flatten()
        )
        if self.recipe.hard_alignment:
            losses["loss/align_hard"] = alignment_loss(projected, batch.teacher(), self.teachers)
            total = total + self.config.joint.lambda_ar * losses["loss/align_hard"]
        self._step(self.generator_engine, total, "generator", batch)

    def _step(self, engine: Any, loss: torch.Tensor, name: str, batch: Batch) -> None:
        if not torch.isfinite(
            loss.detach()
        ):  # the step's one look at a value: it must come before the update
            raise NonFinite(name, loss.item(), batch.keys)
        engine.backward(loss)
        engine.step()
