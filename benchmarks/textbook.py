"""The plain control of the tokenizer's step: latent actions over given features, written as textbooks write attention.

Separate q, k and v; softmax over an explicit matrix of weights; temporal attention as a masked T x T matrix for each
place; every block for every token of both frames. Parameters and work are those of UniVLA's published class.

Letters in shapes: B batch, T = 2 frames, N patches, S tokens of one frame, F width of features, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes of a tokenizer over given features."""

    grid: int = 16  # patches on each side
    feature_width: int = 768
    width: int = 768
    blocks: int = 12  # of the encoder, and of the decoder
    heads: int = 12
    num_tokens: int = 4
    code_width: int = 128
    num_codes: int = 16


SHAPES = {"small": Shapes(width=384, blocks=4, heads=6), "univla": Shapes()}


class Attention(nn.Module):
    """Softmax attention over the second to last axis."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; where the mask [S, S] is False nobody looks."""
        batch, tokens, width = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
        if mask is not None:
            weights = weights.masked_fill(~mask, float("-inf"))
        mixed = weights.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Spatial attention, with `temporal` causal attention over the frames, MLP."""

    def __init__(self, width: int, heads: int, *, temporal: bool) -> None:
        super().__init__()
        self.norm1, self.spatial = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width) if temporal else None
        self.temporal = Attention(width, heads) if temporal else None
        self.norm3 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, S, C] -> [B, T, S, C]."""
        batch, frames, tokens, width = x.shape
        flat = x.reshape(batch * frames, tokens, width)
        x = (flat + self.spatial(self.norm1(flat))).view(batch, frames, tokens, width)
        if self.temporal is not None and self.norm2 is not None:
            causal = torch.ones(frames, frames, dtype=torch.bool, device=x.device).tril()
            column = x.transpose(1, 2).reshape(batch * tokens, frames, width)
            column = column + self.temporal(self.norm2(column), causal)
            x = column.view(batch, tokens, frames, width).transpose(1, 2)
        return x + self.mlp(self.norm3(x))


class Stack(nn.Module):
    """Blocks behind a normalised projection and sinusoidal positions."""

    def __init__(self, shapes: Shapes, in_width: int, *, temporal: bool) -> None:
        super().__init__()
        width = shapes.width
        self.enter = nn.Sequential(nn.LayerNorm(in_width), nn.Linear(in_width, width), nn.LayerNorm(width))
        self.blocks = nn.ModuleList(Block(width, shapes.heads, temporal=temporal) for _ in range(shapes.blocks))
        place = torch.arange(shapes.num_tokens + shapes.grid**2)[:, None]
        angle = place * 10_000 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("position", torch.stack([angle.sin(), angle.cos()], -1).flatten(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, S, F] -> [B, T, S, C]."""
        x = self.enter(x) + self.position
        for block in self.blocks:
            x = block(x)
        return x


class TextbookTokenizer(nn.Module):
    """Encoder over both frames, codebook, decoder of the later frame's features."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes
        self.action_tokens = nn.Parameter(torch.rand(shapes.num_tokens, shapes.feature_width) * 2 - 1)
        self.encoder = Stack(shapes, shapes.feature_width, temporal=True)
        self.to_code = nn.Linear(shapes.width, shapes.code_width)
        bound = 1 / shapes.num_codes
        self.codebook = nn.Parameter(torch.empty(shapes.num_codes, shapes.code_width).uniform_(-bound, bound))
        self.action_in = nn.Linear(shapes.code_width, shapes.width)
        self.patch_in = nn.Linear(shapes.feature_width, shapes.width)
        self.decoder = Stack(shapes, shapes.width, temporal=False)
        self.out = nn.Linear(shapes.width, shapes.feature_width)

    def forward(self, features: Tensor) -> Tensor:
        """Features of both frames [B, 2, N, F] -> the loss: reconstruction, codebook, commitment."""
        count = self.shapes.num_tokens
        tokens = self.action_tokens.expand(*features.shape[:2], -1, -1)
        raw = self.to_code(self.encoder(torch.cat([tokens, features], 2))[:, 1, :count])
        vectors = self.codebook[torch.cdist(raw.float(), self.codebook.float()).argmin(-1)]
        # Straight through: the decoder's gradient goes to the embedding; the codebook has terms of its own.
        passed = raw + (vectors - raw).detach()
        seen = torch.cat([self.action_in(passed), self.patch_in(features[:, 0])], 1)
        rebuilt = self.out(self.decoder(seen[:, None])[:, 0])[:, count:]
        loss = F.mse_loss(rebuilt, features[:, 1])
        return loss + F.mse_loss(vectors, raw.detach()) + 0.25 * F.mse_loss(raw, vectors.detach())
