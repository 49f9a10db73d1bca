"""What a backbone gives to the heads, and the Protocols through which another tower or language model enters.

Letters in shapes: B batch, N visual tokens, D width of the language model, C channels of the feature map,
L tokens of a latent action, X action tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cyclemimic.nn.batches import ObservationBatch


@dataclass(frozen=True, kw_only=True)
class VisualFeatures:
    """What a tower saw: tokens for the language model, and a map that the action decoder reads again."""

    tokens: Tensor  # [B, N, D]
    map: Tensor  # [B, C, rows, columns]


@dataclass(frozen=True, kw_only=True)
class Tail:
    """What an action head adds behind the latent tokens; most heads add nothing."""

    shift: Tensor | None = None  # [B, D], added to ACT's embedding
    bins: Tensor | None = None  # [B, X], numbers of action tokens behind ACT, teacher-forced


@dataclass(frozen=True, kw_only=True)
class BackboneOutput:
    """Hidden states behind one observation and one latent action."""

    slots: Tensor  # [B, L, D]; state i predicts latent token i and has not seen it
    latents: Tensor  # [B, L, D]; states at the latent tokens
    act: Tensor  # [B, D]; state of the ACT query behind the latent tokens
    visual: VisualFeatures
    extra: tuple[VisualFeatures, ...] = ()  # of each further camera
    bins: Tensor | None = None  # [B, X], action tokens: those that were forced, or those that were chosen
    bin_logits: Tensor | None = None  # [B, X, V], teacher-forced; row i predicts action token i and has not seen it


class VisionTower(Protocol):
    """Turns pictures into visual tokens and a feature map; an `nn.Module` of constructor (config: PrismaticConfig)."""

    num_tokens: int
    map_channels: int

    def __call__(self, images: Tensor, sentence: Tensor) -> VisualFeatures:
        """Pictures [B, 3, H, W] in [0, 1] and the mean word embedding [B, D], which a tower may ignore."""
        ...


class Backbone(Protocol):
    """A causal model over [further cameras][visual tokens][words][latent tokens][ACT][action tokens].

    An `nn.Module` of constructor (config: PrismaticConfig, vocabulary: Vocabulary). What its `views` weight holds is
    all that a network of more cameras may have beyond one of fewer.
    """

    width: int  # D
    map_channels: int  # C
    vocabulary_rows: tuple[str, ...]  # names of the weights that have one row per token

    def __call__(
        self, observation: ObservationBatch, codes: Tensor, blind: Tensor | None = None, tail: Tail | None = None
    ) -> BackboneOutput:
        """Teacher-forced pass with `codes` [B, L]; where `blind` [B], nothing behind them sees the latent tokens."""
        ...

    def decode(
        self,
        observation: ObservationBatch,
        num_tokens: int,
        choose: Callable[[Tensor], Tensor],
        *,
        shift: Tensor | None = None,
        num_bins: int = 0,
        choose_bin: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, BackboneOutput]:
        """Token by token: `choose` maps a state [B, D] to codes [B]. Returns codes [B, L] and the states.

        `num_bins` action tokens follow ACT, each chosen by `choose_bin` from the state before it.
        """
        ...

    def token_logits(self, states: Tensor) -> Tensor:
        """[..., D] to logits over the whole vocabulary [..., V]."""
        ...
