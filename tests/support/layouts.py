"""Make small random models for the public checkpoint layouts."""

from __future__ import annotations

import torch

from gear.generator.config import GeneratorConfig
from gear.generator.transformer import Generator
from gear.tokenizer.config import TokenizerConfig
from gear.tokenizer.model import Tokenizer

QUANTIZER = {"llamagen": "vq", "taming": "ibq", "magvit2": "lfq"}


def tokenizer(layout: str) -> Tokenizer:
    torch.manual_seed(0)
    z = 6 if layout == "magvit2" else 12
    settings = {
        "codes": 64,
        "code_dim": 6,
        "base": 8,
        "multipliers": (1, 2, 2),
        "blocks": 2,
        "z_channels": z,
        "steps": 1,
        "batch": 1,
        "lr": 1e-3,
    }
    model = Tokenizer(TokenizerConfig(quantizer=QUANTIZER[layout], **settings)).eval()
    for parameter in model.parameters():  # norms too, so that swapped layers differ
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def generator() -> Generator:
    torch.manual_seed(1)
    model = Generator(
        GeneratorConfig(layers=3, heads=2, width=16, tap=1, steps=0, prefix_rope="zero"),
        codes=64,
        grid=4,
        classes=5,
    )
    torch.nn.init.normal_(model.output.weight)
    return model.eval()
