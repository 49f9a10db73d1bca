"""E: two frames to the embedding of a latent action.

Letters in shapes: B batch, N patches, F width of backbone features, C width of E, L tokens (l_z), D code width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cyclemimic.nn.batches import Features
from cyclemimic.nn.transformer import KeyValue, SpatioTemporalBlock


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of E."""

    width: int = 64
    blocks: int = 2
    heads: int = 4
    num_tokens: int = 2
    code_width: int = 16


@dataclass(frozen=True, kw_only=True)
class NowStream:
    """What the frame now contributes to every later frame: keys and values of each block."""

    memory: tuple[KeyValue, ...]

    def take(self, index: Tensor) -> NowStream:
        """The streams of the frames that `index` [B'] names."""
        return NowStream(memory=tuple((k[index], v[index]) for k, v in self.memory))


class Encoder(nn.Module):
    """E. Spatio-temporal transformer with learnable action tokens in front of each frame's patch features.

    Paper: method, latent action tokenizer. The tokens of the later frame are read out; what happens later cannot
    change the stream of the frame now. Deviation D3: the later frame's patches also carry the change since now.
    """

    def __init__(self, config: EncoderConfig, *, feature_width: int, num_patches: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_in = nn.Linear(feature_width, width)
        self.change_in = nn.Linear(feature_width, width)
        self.action_tokens = nn.Parameter(torch.randn(config.num_tokens, width) * width**-0.5)
        self.position = nn.Parameter(torch.randn(num_patches, width) * 0.02)
        self.frame = nn.Parameter(torch.randn(2, width) * 0.02)
        self.blocks = nn.ModuleList(SpatioTemporalBlock(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.code_width)

    def watch(self, now: Features) -> NowStream:
        """The stream of the frame now, from its features [B, N, F]. It knows nothing of what follows."""
        x = self._tokens(self.patch_in(now.patches), frame=0)
        memory = []
        for block, read in zip(self.blocks, self._reads(), strict=True):
            x, key_value = block.now(x, read)  # type: ignore[operator]
            memory.append(key_value)
        return NowStream(memory=tuple(memory))

    def read(self, stream: NowStream, later: Features, change: Features) -> Tensor:
        """The embedding [B, L, D] of what led from the watched frame to `later` [B, N, F]."""
        x = self._tokens(self.patch_in(later.patches) + self.change_in(change.patches), frame=1)
        for block, key_value, read in zip(self.blocks, stream.memory, self._reads(), strict=True):
            x = block.later(x, key_value, read)  # type: ignore[operator]
        return self.out(self.norm(x))  # type: ignore[no-any-return]

    def _reads(self) -> list[int | None]:
        """How many tokens each block must compute: all, but in the last only the action tokens, which are read out."""
        return [None] * (self.config.blocks - 1) + [self.config.num_tokens]

    def _tokens(self, patches: Tensor, *, frame: int) -> Tensor:
        """Action tokens, then patches: [B, L + N, C]."""
        tokens = self.action_tokens.expand(len(patches), -1, -1)
        return torch.cat([tokens, patches + self.position], dim=1) + self.frame[frame]
