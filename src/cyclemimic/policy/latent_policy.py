"""The latent policy: which latent action follows what is seen, as next-token prediction (paper, policy, pre-training).

Letters in shapes: B batch, L tokens of a latent action, K codes, V vocabulary, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.policy.backbone import Backbone, BackboneOutput, Tail
from cyclemimic.policy.vocabulary import Vocabulary


class LatentPolicy(nn.Module):
    """A backbone read out over the vocabulary; K of its rows are the latent tokens."""

    def __init__(self, backbone: Backbone, vocabulary: Vocabulary, *, num_tokens: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.vocabulary, self.num_tokens = vocabulary, num_tokens

    def forward(
        self, observation: ObservationBatch, codes: Tensor, blind: Tensor | None = None, tail: Tail | None = None
    ) -> BackboneOutput:
        """Teacher-forced states; see `PrismaticBackbone.forward`."""
        return self.backbone(observation, codes, blind, tail)

    def code_logits(self, slots: Tensor) -> Tensor:
        """States [..., D] to logits over the K codes [..., K]: the latent tokens' rows of the language model's head."""
        first = self.vocabulary.first_latent_id
        return self.backbone.token_logits(slots)[..., first : first + self.vocabulary.num_codes]

    def bin_logits(self, states: Tensor) -> Tensor:
        """States [..., D] to logits over the action tokens alone [..., bins]."""
        return self.backbone.token_logits(states)[..., self.vocabulary.first_bin_id :]

    def generate(
        self, observation: ObservationBatch, *, shift: Tensor | None = None, num_bins: int = 0
    ) -> tuple[Tensor, BackboneOutput]:
        """Greedy and deterministic: codes [B, L] and the states behind them. Only latent tokens can be chosen.

        `num_bins` action tokens follow, chosen among action tokens alone; `shift` is added to ACT's embedding.
        """
        return self.backbone.decode(
            observation,
            self.num_tokens,
            lambda state: self.code_logits(state).argmax(-1),
            shift=shift,
            num_bins=num_bins,
            choose_bin=lambda state: self.bin_logits(state).argmax(-1),
        )

    def latent_loss(self, slots: Tensor, codes: Tensor) -> Tensor:
        """Mean negative log-likelihood of the latent tokens over the whole vocabulary, nats a token (paper, policy)."""
        logits = self.backbone.token_logits(slots)
        return F.cross_entropy(logits.flatten(0, 1), (codes + self.vocabulary.first_latent_id).flatten())

    def slot_accuracy(self, slots: Tensor, codes: Tensor) -> Tensor:
        """Share [L] of moments whose code is the likeliest, per slot, teacher-forced."""
        return (self.code_logits(slots).argmax(-1) == codes).float().mean(0)
