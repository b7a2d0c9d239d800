"""Train jointly in a plain PyTorch loop, the oracle of the engines' steps."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from gear.joint.model import GuidedGenerator
from gear.params import Config
from gear.tokenizer.model import Tokenizer
from gear.training.batches import Batch
from tests.support.joint import batch, models

EPS = 1e-2  # large, so that Adam does not turn rounding of near-zero gradients into steps


def plain_loop(
    config: Config, steps: int, recipe: str, images: int = 4, lr: float = 1e-3
) -> tuple[Tokenizer, GuidedGenerator]:
    """Return both models after joint steps on batches of `images` images.

    Uses plain optimizers and autograd.grad, and writes out all formulas.
    """
    tokenizer, guided = models(config)
    first = torch.optim.AdamW(tokenizer.parameters(), lr=lr, eps=EPS, weight_decay=0.0)
    second = torch.optim.AdamW(guided.parameters(), lr=lr, eps=EPS, weight_decay=0.0)
    weights, tau = config.loss, config.joint.temperature
    for number in range(steps):
        data = batch(config, number, images)
        output = tokenizer(data.images_BCHW)
        quantized = output.quantized
        total = (
            weights.l1 * (output.reconstruction - data.images_BCHW).abs().mean()
            + weights.codebook * quantized.codebook_loss
            + weights.commitment * quantized.commitment_loss
            + weights.entropy * quantized.entropy_loss
        )
        if recipe in ("gear", "soft_hard_forward", "ste"):
            twin = copy.deepcopy(guided).eval()
            distances = quantized.assignment.distances()
            shares = torch.exp((distances.min(-1, keepdim=True).values - distances) / tau)
            shares = shares / shares.sum(-1, keepdim=True)
            if recipe != "gear":
                shares = (
                    F.one_hot(quantized.indices, config.tokenizer.codes) + shares - shares.detach()
                )
            generated, projected = twin(lambda table, shares=shares: shares @ table, data.condition)
            total = total - config.joint.lambda_tok * mean_cosine(projected, data)
            if recipe == "ste":
                total = total - (shares * generated.logits.log_softmax(-1)).sum(-1).mean()
        if recipe not in ("llamagen", "llamagen_repa"):
            apply(first, tokenizer, total, config.train.clip)
        output, projected = guided(quantized.indices, data.condition)
        loss = -output.logits.log_softmax(-1).gather(-1, quantized.indices[..., None]).mean()
        if recipe != "llamagen":
            loss = loss - config.joint.lambda_ar * mean_cosine(projected, data)
        apply(second, guided, loss, config.train.clip)
    return tokenizer, guided


def mean_cosine(projected: torch.Tensor, data: Batch) -> torch.Tensor:
    return (F.normalize(projected, dim=-1) * F.normalize(data.teacher_BLC, dim=-1)).sum(-1).mean()


def apply(
    optimizer: torch.optim.Optimizer, module: torch.nn.Module, loss: torch.Tensor, clip: float
) -> None:
    for parameter, gradient in zip(
        module.parameters(),
        torch.autograd.grad(loss, list(module.parameters()), allow_unused=True),
        strict=True,
    ):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()
