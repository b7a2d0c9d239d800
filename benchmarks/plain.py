"""A plain implementation of the method, the baseline of `make bench`.

It is written from the formulas in plain PyTorch, without custom operations and without caches other
than keys and values. Modules have the names of those in gear/, so that both load the same weights
and results can be compared. They are separate code, so that a change in gear/ does not change the
baseline.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from gear.generator.config import GeneratorShape
from gear.generator.rope import rotary_table
from gear.tokenizer.config import TokenizerShape
from gear.tokenizer.convnet import norm


class Residual(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = norm(outer), nn.Conv2d(outer, outer, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        h = self.conv1(h * torch.sigmoid(h))
        h = self.norm2(h)
        h = self.conv2(h * torch.sigmoid(h))
        return self.nin_shortcut(x) + h


class SpatialAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = self.q(h).flatten(2), self.k(h).flatten(2), self.v(h).flatten(2)
        shares = (torch.bmm(q.transpose(1, 2), k) * q.shape[1] ** -0.5).softmax(-1)
        mixed = torch.bmm(v, shares.transpose(1, 2)).reshape(x.shape)
        return x + self.proj_out(mixed)


class Resample(nn.Module):
    def __init__(self, channels: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(channels, channels, 3, 2 if down else 1, 0 if down else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(
            F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0)
        )


class Half(nn.Module):
    """Encoder or decoder."""

    def __init__(self, shape: TokenizerShape, *, encodes: bool) -> None:
        super().__init__()
        widths = [shape.base * m for m in shape.multipliers]
        entering = [shape.base, *widths]
        if not encodes:
            widths.reverse()
            entering = [widths[0], *widths]
        self.encodes = encodes
        self.conv_in = nn.Conv2d(3 if encodes else shape.z_channels, entering[0], 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for number, width in enumerate(widths):
            blocks = shape.blocks + (0 if encodes else 1)
            lowest = number == (len(widths) - 1 if encodes else 0)
            level = nn.Module()
            level.res = nn.ModuleList(
                Residual(entering[number] if i == 0 else width, width) for i in range(blocks)
            )
            level.attn = nn.ModuleList(
                SpatialAttention(width) for _ in range(blocks if lowest else 0)
            )
            if number < len(widths) - 1:
                setattr(
                    level, "downsample" if encodes else "upsample", Resample(width, down=encodes)
                )
            self.conv_blocks.append(level)
        middle = widths[-1] if encodes else widths[0]
        self.mid = nn.ModuleList(
            [Residual(middle, middle), SpatialAttention(middle), Residual(middle, middle)]
        )
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], shape.z_channels if encodes else 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for block in () if self.encodes else self.mid:
            x = block(x)
        for level in self.conv_blocks:
            for number, block in enumerate(level.res):
                x = block(x)
                if len(level.attn):
                    x = level.attn[number](x)
            for name in ("downsample", "upsample"):
                if hasattr(level, name):
                    x = getattr(level, name)(x)
        for block in self.mid if self.encodes else ():
            x = block(x)
        h = self.norm_out(x)
        return self.conv_out(h * torch.sigmoid(h))


class PlainTokenizer(nn.Module):
    """The VQ tokenizer, with every distance in memory."""

    def __init__(self, shape: TokenizerShape) -> None:
        super().__init__()
        self.encoder, self.decoder = Half(shape, encodes=True), Half(shape, encodes=False)
        self.quant_conv = nn.Conv2d(shape.z_channels, shape.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(shape.code_dim, shape.z_channels, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(shape.codes, shape.code_dim)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return reconstruction, distances, indices, codebook, commitment and entropy loss."""
        latent = self.quant_conv(self.encoder(images)).float()
        with torch.autocast("cpu", enabled=False):
            z = F.normalize(latent.permute(0, 2, 3, 1).flatten(1, 2), dim=-1)
            codes = F.normalize(self.quantize.embedding.weight, dim=-1)
            distances = z.square().sum(-1, keepdim=True) + codes.square().sum(-1)
            distances = distances - 2 * torch.einsum("bld,kd->blk", z, codes)
            indices = distances.argmin(-1)
            nearest = codes[indices]
            logits = -distances / 0.01
            p = logits.softmax(-1)
            token = -(p * logits.log_softmax(-1)).sum(-1).mean()
            mean = p.mean((0, 1))
            entropy = token + (mean * (mean + 1e-12).log()).sum()
            codebook = (nearest - z.detach()).square().mean()
            commitment = (nearest.detach() - z).square().mean()
            chosen = z + (nearest - z).detach()
        quantized = chosen.transpose(1, 2).reshape(latent.shape)
        rebuilt = self.decoder(self.post_quant_conv(quantized))
        return rebuilt, distances, indices, codebook, commitment, entropy


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
        return scaled.type_as(x) * self.weight


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    pairs = x.float().unflatten(-1, (-1, 2))
    cos, sin = table[None, :, None, :, 0], table[None, :, None, :, 1]
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).type_as(x)


class Attention(nn.Module):
    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.wqkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.wo = nn.Linear(shape.width, shape.width, bias=False)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: torch.Tensor, table: torch.Tensor, cache: list | None) -> torch.Tensor:
        q, k, v = (p.unflatten(-1, (self.heads, -1)) for p in self.wqkv(x).chunk(3, dim=-1))
        q, k, v = (t.transpose(1, 2) for t in (rotate(q, table), rotate(k, table), v))
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
            cache[:] = [k, v]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        return self.dropout(self.wo(mixed.transpose(1, 2).flatten(-2)))


class FeedForward(nn.Module):
    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        hidden = 256 * -(-(8 * shape.width // 3) // 256)
        self.w1 = nn.Linear(shape.width, hidden, bias=False)
        self.w3 = nn.Linear(shape.width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, shape.width, bias=False)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class Block(nn.Module):
    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(shape), FeedForward(shape)
        self.attention_norm, self.ffn_norm = RMSNorm(shape.width), RMSNorm(shape.width)

    def forward(self, x: torch.Tensor, table: torch.Tensor, cache: list | None) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), table, cache)
        return x + self.feed_forward(self.ffn_norm(x))


class PlainGenerator(nn.Module):
    """The class-conditional generator with its projector."""

    def __init__(
        self, shape: GeneratorShape, codes: int, grid: int, classes: int, teacher: int
    ) -> None:
        super().__init__()
        self.shape, self.codes, self.tokens, self.classes = shape, codes, grid * grid, classes
        self.generator = nn.Module()
        self.generator.tok_embeddings = nn.Embedding(codes, shape.width)
        self.generator.cls_embedding = nn.Module()
        self.generator.cls_embedding.embedding_table = nn.Embedding(classes + 1, shape.width)
        self.generator.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.generator.norm = RMSNorm(shape.width)
        self.generator.output = nn.Linear(shape.width, codes, bias=False)
        self.projector = nn.Module()
        hidden = shape.projector_hidden
        self.projector.heads = nn.ModuleList([nn.Sequential(
            nn.Linear(shape.width, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, teacher),
        )])  # fmt: skip
        self.dropout = nn.Dropout(shape.dropout)
        table = rotary_table(grid, shape.width // shape.heads, 1, shape.prefix_rope)
        self.register_buffer("table", table, persistent=False)

    def forward(
        self, tokens: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and the projected tap. tokens: indices (B, L) or weights (B, L, K)."""
        g = self.generator
        if self.training:
            gone = torch.rand(len(labels)) < self.shape.class_dropout
            labels = torch.where(gone, self.classes, labels)
        soft = tokens.is_floating_point()
        embedded = tokens @ g.tok_embeddings.weight if soft else g.tok_embeddings(tokens)
        prefix = g.cls_embedding.embedding_table(labels)[:, None]
        x = self.dropout(torch.cat([prefix, embedded[:, :-1].float()], dim=1))
        for number, layer in enumerate(g.layers, start=1):
            x = layer(x, self.table[: x.shape[1]], None)
            if number == self.shape.tap:
                tap = x
        return g.output(g.norm(x)), self.projector.heads[0](tap)

    @torch.no_grad()
    def sample(self, labels: torch.Tensor, guidance: float, seed: int) -> torch.Tensor:
        """Return sampled tokens, (B, L), with a growing key-value cache."""
        g, random = self.generator, torch.Generator().manual_seed(seed)
        count = len(labels)
        if guidance != 1.0:
            labels = torch.cat([labels, torch.full_like(labels, self.classes)])
        caches: list[list] = [[] for _ in g.layers]
        x = g.cls_embedding.embedding_table(labels)[:, None]
        tokens = []
        for position in range(self.tokens):
            for layer, cache in zip(g.layers, caches, strict=True):
                x = layer(x, self.table[position : position + 1], cache)
            logits = g.output(g.norm(x))[:, -1]
            if guidance != 1.0:
                given, null = logits.chunk(2)
                logits = null + guidance * (given - null)
            token = torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0]
            tokens.append(token)
            x = g.tok_embeddings(torch.cat([token] * (len(labels) // count)))[:, None]
        return torch.stack(tokens, dim=1)


class PlainStep:
    """The joint step of the recipe `gear`, with a frozen generator in the soft pass."""

    def __init__(self, tokenizer: nn.Module, guided: PlainGenerator, encoder: nn.Module) -> None:
        self.tokenizer, self.guided, self.encoder = tokenizer, guided, encoder
        self.averages = [copy.deepcopy(tokenizer), copy.deepcopy(guided)]
        self.optimizers = [
            torch.optim.AdamW(m.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
            for m in (tokenizer, guided)
        ]

    def perceptual(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(())
        for a, b in zip(self.encoder.early(x), self.encoder.early(y), strict=True):
            a, b = (F.normalize(t.float(), dim=1, eps=1e-6) for t in (a, b))
            total = total + (a - b).square().sum(1).mean()
        return total

    def alignment(self, projected: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return -F.cosine_similarity(projected.float(), teacher, dim=-1).mean()

    def joint(
        self, images: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor, temperature: float
    ) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            rebuilt, distances, indices, codebook, commitment, entropy = self.tokenizer(images)
            rebuilt = rebuilt.float()
            loss = (rebuilt - images).abs().mean() + codebook + 0.25 * commitment + 0.05 * entropy
            loss = loss + self.perceptual(rebuilt, images)
            self.guided.eval().requires_grad_(False)
            _, projected = self.guided((-distances / temperature).softmax(-1), labels)
            loss = loss + 0.5 * self.alignment(projected, teacher)
        loss.backward()
        self.guided.train().requires_grad_(True)
        self.update(0, self.tokenizer)
        self.frozen(indices, labels, teacher)

    def frozen(self, indices: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor) -> None:
        """Train the generator on given tokens."""
        with torch.autocast("cpu", torch.bfloat16):
            logits, projected = self.guided(indices, labels)
            loss = F.cross_entropy(logits.float().flatten(0, 1), indices.flatten())
            loss = loss + 0.5 * self.alignment(projected, teacher)
        loss.backward()
        self.update(1, self.guided)

    def update(self, number: int, module: nn.Module) -> None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        self.optimizers[number].step()
        self.optimizers[number].zero_grad()
        with torch.no_grad():
            for average, value in zip(
                self.averages[number].parameters(), module.parameters(), strict=True
            ):
                average.lerp_(value, 0.02)
