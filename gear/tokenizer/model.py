"""The tokenizer: images to indices and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gear.tokenizer import convnet, magvit
from gear.tokenizer.config import TokenizerShape
from gear.tokenizer.quantizers import QUANTIZERS, Quantized


@dataclass(frozen=True)
class TokenizerOutput:
    """Reconstruction (B, 3, H, W), about in [-1, 1], and the quantized latents it is decoded from.

    It is not a tuple: DeepSpeed's engine would then take the intermediate gradient of
    `adaptive_weight` for the end of the backward pass.
    """

    reconstruction: torch.Tensor
    quantized: Quantized


class Tokenizer(nn.Module):
    """Encoder, quantizer, decoder. Images are (B, 3, H, W) in [-1, 1]."""

    def __init__(self, config: TokenizerShape) -> None:
        super().__init__()
        self.config = config
        backbone = magvit if config.quantizer == "lfq" else convnet
        shape = (config.base, config.multipliers, config.blocks, config.z_channels)
        self.encoder, self.decoder = backbone.Encoder(*shape), backbone.Decoder(*shape)
        plain = config.quantizer == "lfq"  # its latent channels are the bits of the code
        self.quant_conv = (
            nn.Identity() if plain else nn.Conv2d(config.z_channels, config.code_dim, 1)
        )
        self.post_quant_conv = (
            nn.Identity() if plain else nn.Conv2d(config.code_dim, config.z_channels, 1)
        )
        self.quantize = QUANTIZERS[config.quantizer](config.codes, config.code_dim)

    def encode(self, images: torch.Tensor) -> Quantized:
        """Return the quantized latents of images: codes, indices, assignment and losses."""
        result: Quantized = self.quantize(self.quant_conv(self.encoder(images)))
        return result

    def decode(self, codes_BDhw: torch.Tensor) -> torch.Tensor:
        """Return images of quantized codes (B, D, h, w)."""
        result: torch.Tensor = self.decoder(self.post_quant_conv(codes_BDhw))
        return result

    def decode_indices(self, indices_BL: torch.Tensor) -> torch.Tensor:
        """Return images of indices (B, L) on a square grid in raster order."""
        side = round(indices_BL.shape[1] ** 0.5)
        codes = self.quantize.lookup(indices_BL)
        return self.decode(torch.unflatten(codes.transpose(1, 2), 2, (side, side)))

    def forward(self, images: torch.Tensor) -> TokenizerOutput:
        quantized = self.encode(images)
        return TokenizerOutput(self.decode(quantized.codes), quantized)
