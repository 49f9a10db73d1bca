"""Transformer blocks: spatial attention within a frame, causal temporal attention over two frames, MLP.

Letters in shapes: B batch, T tokens of one frame, C width, H heads.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KeyValue = tuple[Tensor, Tensor]  # each [B, T, C]


class QueryKeyValue(nn.Linear):
    """Queries, keys and values in one product; or in two, where not all tokens ask."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)

    @overload
    def forward(self, x: Tensor) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, asking: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, asking: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[..., C] -> [..., 3 C]; or the queries of the tokens `asking`, and keys and values [..., 2 C] of all."""
        if asking is None:
            return super().forward(x)
        parts = [self.in_features, 2 * self.in_features]
        # Split, not sliced: the gradient is one concatenation.
        (ask, offer), (ask_bias, offer_bias) = self.weight.split(parts), self.bias.split(parts)
        return F.linear(asking, ask, ask_bias), F.linear(x, offer, offer_bias)


class SpatialAttention(nn.Module):
    """Full attention between the tokens of one frame. Engineering: fused q, k, v and torch's own kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = QueryKeyValue(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, read: int | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C], or [B, read, C] where only the first `read` tokens are needed."""
        batch, tokens, width = x.shape
        heads = (self.heads, width // self.heads)
        if read is not None and read * (self.heads * tokens + width) < tokens * width:
            few: Tensor = self.out(self._few(x, read))
            return few
        if read is None:
            query, key, value = self.qkv(x).view(batch, tokens, 3, *heads).permute(2, 0, 3, 1, 4)
        else:
            asked, offered = self.qkv(x, asking=x[:, :read])
            query = asked.view(batch, read, *heads).transpose(1, 2)
            key, value = offered.view(batch, tokens, 2, *heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _few(self, x: Tensor, read: int) -> Tensor:
        """What the first `read` tokens see, [B, read, C], without a key and a value for each token.

        With few that ask it is less work to carry the queries to the tokens: q . (W x + b) is (q W) . x and a number
        that all keys share and the softmax does not see; and what is mixed of values is the value of what is mixed.
        """
        batch, _, width = x.shape
        each = width // self.heads
        ask, key, value = self.qkv.weight.split(width)
        ask_bias, _, value_bias = self.qkv.bias.split(width)
        query = F.linear(x[:, :read], ask, ask_bias).view(batch, read, self.heads, each).transpose(1, 2)
        carried = (query @ key.view(self.heads, each, width)).flatten(1, 2)  # [B, H read, C]
        seen = F.scaled_dot_product_attention(carried[:, None], x[:, None], x[:, None], scale=each**-0.5)
        mixed = seen.view(batch, self.heads, read, width) @ value.view(self.heads, each, width).transpose(1, 2)
        out: Tensor = mixed.transpose(1, 2).flatten(2) + value_bias
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


class SpatialBlock(nn.Module):
    """Pre-norm spatial attention and MLP: a block of the decoder and of the discriminator."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SpatialAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class SpatioTemporalBlock(nn.Module):
    """Spatial attention, causal temporal attention over (now, later), MLP: a block of the encoder E.

    Attention over two frames has a closed form: the frame now sees only itself, so its output is its own value; the
    later frame weighs two values, and a softmax over two logits is a sigmoid of their difference. Splitting the block
    into `now` and `later` makes it causal by construction, and lets one stream of a frame serve several later frames.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.spatial = nn.LayerNorm(width), SpatialAttention(width, heads)
        self.norm2, self.qkv, self.out = (
            nn.LayerNorm(width),
            QueryKeyValue(width),
            nn.Linear(width, width),
        )
        self.norm3, self.mlp = nn.LayerNorm(width), MLP(width)

    def now(self, x: Tensor, read: int | None = None, *, finish: bool = True) -> tuple[Tensor, KeyValue]:
        """The frame now [B, T, C]; returns its tokens and the keys and values that a later frame will look at.

        With `read`, only the first `read` tokens are computed: enough for the last block, whose others nobody reads.
        Without `finish` the tokens are of no use: the last block's, where only the later frame's are read out.
        """
        x = x[:, :read] + self.spatial(self.norm1(x), read)
        seen = self.norm2(x)
        key, value = self.qkv(seen, asking=seen[:0])[1].chunk(2, dim=-1)  # it asks nobody
        if not finish:
            return x, (key, value)
        x = x + self.out(value)
        return x + self.mlp(self.norm3(x)), (key, value)

    def later(self, x: Tensor, earlier: KeyValue, read: int | None = None) -> Tensor:
        """The later frame [B, T, C], which looks at itself and at `earlier`; only the first `read` tokens if told."""
        x = x[:, :read] + self.spatial(self.norm1(x), read)
        query, key, value = self.qkv(self.norm2(x)).chunk(3, dim=-1)
        key_now, value_now = earlier
        batch, tokens, width = x.shape
        heads = (batch, tokens, self.heads, width // self.heads)
        logit = (query * (key - key_now)).view(heads).sum(-1, keepdim=True) * (width // self.heads) ** -0.5
        weight = torch.sigmoid(logit)
        mixed = value_now.reshape(heads) + weight * (value - value_now).view(heads)
        x = x + self.out(mixed.reshape(batch, tokens, width))
        return x + self.mlp(self.norm3(x))  # type: ignore[no-any-return]
