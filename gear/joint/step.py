"""One training step of GEAR: three updates, each of one module.

1. Tokenizer: reconstruction and codebook losses, and the alignment loss of the frozen generator on
   the soft assignment (`AutoencoderStep.update_tokenizer`, with `JointStep.soft_alignment`).
2. Discriminator, once it has joined (`AutoencoderStep.update_discriminator`).
3. Generator and projector: next-token and alignment loss on the hard assignment
   (`JointStep.update_generator`).

A recipe leaves some of these out (gear/joint/recipes.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from gear.generator.conditioning import Condition
from gear.joint.alignment import alignment_loss
from gear.joint.config import JointConfig
from gear.joint.recipes import Recipe
from gear.joint.soft_input import soft_tokens
from gear.joint.straight_through_loss import straight_through_ntp
from gear.tokenizer.quantizers import Quantized
from gear.training.autoencoder import AutoencoderStep, Losses, autocast, no_extra_loss
from gear.training.batches import Batch
from gear.training.engine import frozen, update_weights


class JointStep:
    """The three updates; the first two only if the tokenizer trains.

    engine: DeepSpeed engine of generator and projector.
    autoencoder: Updates of tokenizer and discriminator; None if the tokenizer is frozen and batches
        hold its tokens.
    temperature: tau of the soft assignment.
    """

    def __init__(
        self,
        recipe: Recipe,
        joint: JointConfig,
        engine: Any,
        *,
        bf16: bool,
        autoencoder: AutoencoderStep | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.recipe, self.joint, self.engine, self.bf16 = recipe, joint, engine, bf16
        self.autoencoder, self.temperature = autoencoder, temperature
        self.extra_loss = no_extra_loss if recipe.readout == "none" else self.soft_alignment

    @property
    def engines(self) -> dict[str, Any]:
        """The DeepSpeed engines by name."""
        others = self.autoencoder.engines if self.autoencoder is not None else {}
        return {**others, "generator": self.engine}

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs besides weights and optimisers."""
        return self.autoencoder.state() if self.autoencoder is not None else {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a saved `state`."""
        if self.autoencoder is not None:
            self.autoencoder.restore(state)

    def measure_batch(self, micro_batches: list[Batch[Condition]], step: int) -> None:
        """Measure what losses need of the whole batch, before training on its micro-batches."""
        if self.autoencoder is not None:
            self.autoencoder.measure_batch(micro_batches, step)

    def __call__(self, batch: Batch[Condition], step: int) -> tuple[Losses, torch.Tensor]:
        """Train one step. Returns detached scalar losses and the hard indices, (B, L) int64."""
        losses: Losses = {}
        if self.autoencoder is not None:
            indices_BL = self.autoencoder.update(batch, step, losses, self.extra_loss)
        else:
            assert batch.tokens_BL is not None
            indices_BL = batch.tokens_BL
        self.update_generator(batch, indices_BL, losses)
        return {name: value.detach() for name, value in losses.items()}, indices_BL

    @contextmanager
    def soft_alignment(
        self,
        batch: Batch[Condition],
        quantized: Quantized,
        total: torch.Tensor,
        losses: Losses,
    ) -> Iterator[torch.Tensor]:
        """Add the alignment loss of the soft assignment; the generator is frozen in the block."""
        readout = partial(
            soft_tokens, quantized, temperature=self.temperature, readout=self.recipe.readout
        )
        guided = self.engine.module  # the raw module: its engine must not see this pass
        with frozen(guided):
            with autocast(total, self.bf16):
                generated, projected_BLC = guided(
                    readout, batch.conditions(), tap_only=not self.recipe.ntp_to_tokenizer
                )
            soft = self.alignment(projected_BLC, batch)
            losses["loss/align_soft"] = soft
            total = total + self.joint.lambda_tok * soft
            if self.recipe.ntp_to_tokenizer:
                ntp = straight_through_ntp(generated.logits, quantized, self.temperature)
                losses["loss/ntp_tokenizer"] = ntp
                total = total + ntp
            yield total

    def update_generator(
        self, batch: Batch[Condition], indices_BL: torch.Tensor, losses: Losses
    ) -> None:
        """Update the generator by next-token and, in most recipes, hard alignment loss."""
        output, projected_BLC = self.engine(indices_BL, batch.conditions())
        logits_NK = output.logits.float().flatten(0, 1)
        total = losses["loss/ntp"] = F.cross_entropy(logits_NK, indices_BL.flatten())
        if self.recipe.hard_alignment:
            losses["loss/align_hard"] = self.alignment(projected_BLC, batch)
            total = total + self.joint.lambda_ar * losses["loss/align_hard"]
        update_weights(self.engine, total, "generator", batch.keys)

    def alignment(self, projected_BLC: torch.Tensor, batch: Batch[Condition]) -> torch.Tensor:
        """Return the alignment loss of the projected tap with the teachers' features."""
        teachers = self.engine.module.projector.teachers
        return alignment_loss(projected_BLC, batch.teacher(), teachers)
