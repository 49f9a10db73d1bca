"""E: two frames to the embedding of a latent action.

Letters in shapes: B batch, N patches, F width of backbone features, C width of E, L tokens that are read out,
W words, D code width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Features
from cyclemimic.nn.transformer import KeyValue, SpatioTemporalBlock


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of E.

    Args:
        num_tokens: l_z.
        readout: `later` reads the later frame's action tokens (the paper); `difference` reads both frames' and takes
            the difference (LAPA).
        later_patches: whether the later frame's patches carry its features and the change, or the change alone; then
            what does not move reaches the action tokens only through the frame now.
    """

    width: int = 64
    blocks: int = 2
    heads: int = 4
    num_tokens: int = 2
    code_width: int = 16
    readout: Literal["later", "difference"] = "later"
    later_patches: Literal["both", "change"] = "both"


@dataclass(frozen=True, kw_only=True)
class NowStream:
    """What the frame now contributes to every later frame: keys and values of each block, and its own tokens."""

    memory: tuple[KeyValue, ...]
    tokens: Tensor  # [B, L, C]; of use only where the readout is a difference

    def take(self, index: Tensor) -> NowStream:
        """The streams of the frames that `index` [B'] names."""
        return NowStream(memory=tuple((k[index], v[index]) for k, v in self.memory), tokens=self.tokens[index])


class Encoder(nn.Module):
    """E. Spatio-temporal transformer with learnable action tokens in front of each frame's patch features.

    Paper: method, latent action tokenizer. The tokens of the later frame are read out; what happens later cannot
    change the stream of the frame now. Deviation D3: the later frame's patches also carry the change since now.

    Args:
        given_tokens: tokens of an earlier stage that come first, and are read out first (UniVLA's second stage); they
            do not learn.
        sees_change: whether the later frame's patches also carry the change.
        word_width: width of word features that stand behind the patches (UniVLA's first stage); 0 is none.

    Raises:
        InputError: the change alone is to be seen, and there is none.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        feature_width: int,
        num_patches: int,
        given_tokens: int = 0,
        sees_change: bool = True,
        word_width: int = 0,
    ) -> None:
        super().__init__()
        if config.later_patches == "change" and not sees_change:
            raise InputError(
                "EncoderConfig.later_patches",
                expected="'both' where E sees no change",
                got="'change'",
                remedy="Set TokenizerConfig.change to 'pixels' or 'features'.",
            )
        self.config, self.num_read = config, given_tokens + config.num_tokens
        width = config.width
        self.patch_in = nn.Linear(feature_width, width)
        self.change_in = nn.Linear(feature_width, width) if sees_change else None
        self.word_in = nn.Linear(word_width, width) if word_width else None
        self.action_tokens = nn.Parameter(torch.randn(config.num_tokens, width) * width**-0.5)
        self.position = nn.Parameter(torch.randn(num_patches, width) * 0.02)
        self.frame = nn.Parameter(torch.randn(2, width) * 0.02)
        self.given: nn.Parameter | None = None
        if given_tokens:
            # UniVLA: the first stage's queries are frozen; `LatentActionTokenizer.take_over` fills them in.
            self.given = nn.Parameter(torch.zeros(given_tokens, width), requires_grad=False)
        self.blocks = nn.ModuleList(SpatioTemporalBlock(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.code_width)

    def watch(self, now: Features, words: Tensor | None = None) -> NowStream:
        """The stream of the frame now, from its features [B, N, F]. It knows nothing of what follows."""
        x = self._tokens(self.patch_in(now.patches), words, frame=0)
        memory = []
        for number, block in enumerate(self.blocks, start=1):
            last = number == len(self.blocks)
            read = self.num_read if last else None  # in the last block nobody looks at the patches
            x, key_value = block.now(x, read, finish=not last or self.config.readout == "difference")  # type: ignore[operator]
            memory.append(key_value)
        return NowStream(memory=tuple(memory), tokens=x)

    def read(self, stream: NowStream, later: Features, change: Features | None, words: Tensor | None = None) -> Tensor:
        """The embedding [B, L, D] of what led from the watched frame to `later` [B, N, F]."""
        if self.change_in is None:
            patches = self.patch_in(later.patches)
        else:
            assert change is not None
            patches = self.change_in(change.patches)
            if self.config.later_patches == "both":
                patches = patches + self.patch_in(later.patches)
        x = self._tokens(patches, words, frame=1)
        for number, (block, key_value) in enumerate(zip(self.blocks, stream.memory, strict=True), start=1):
            x = block.later(x, key_value, self.num_read if number == len(self.blocks) else None)  # type: ignore[operator]
        if self.config.readout == "difference":
            return self.out(self.norm(x)) - self.out(self.norm(stream.tokens))  # type: ignore[no-any-return]
        return self.out(self.norm(x))  # type: ignore[no-any-return]

    def _tokens(self, patches: Tensor, words: Tensor | None, *, frame: int) -> Tensor:
        """Action tokens, patches, words: [B, L + N + W, C]."""
        tokens = self.action_tokens if self.given is None else torch.cat([self.given, self.action_tokens])
        parts = [tokens.expand(len(patches), -1, -1), patches + self.position]
        if self.word_in is not None and words is not None:
            parts.append(self.word_in(words))
        return torch.cat(parts, dim=1) + self.frame[frame]
