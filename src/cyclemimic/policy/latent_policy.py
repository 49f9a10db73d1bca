"""The latent policy: which latent action follows what is seen, as next-token prediction (paper, policy, pre-training).

Letters in shapes: B batch, L tokens of a latent action, K codes, V vocabulary, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.policy.backbone import BackboneOutput
from cyclemimic.policy.prismatic import PrismaticBackbone


class LatentPolicy(nn.Module):
    """A backbone read out over the vocabulary; K of its rows are the latent tokens."""

    def __init__(self, backbone: PrismaticBackbone, *, num_codes: int, num_tokens: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_codes, self.num_tokens = num_codes, num_tokens

    def forward(self, observation: ObservationBatch, codes: Tensor, blind: Tensor | None = None) -> BackboneOutput:
        """Teacher-forced states; see `PrismaticBackbone.forward`."""
        return self.backbone(observation, codes, blind)  # type: ignore[no-any-return]

    def code_logits(self, slots: Tensor) -> Tensor:
        """States [..., D] to logits over the K codes [..., K]: the latent tokens' rows of the language model's head."""
        first = self.backbone.first_latent_id
        return self.backbone.token_logits(slots)[..., first : first + self.num_codes]

    def generate(self, observation: ObservationBatch) -> tuple[Tensor, BackboneOutput]:
        """Greedy and deterministic: codes [B, L] and the states behind them. Only latent tokens can be chosen."""
        return self.backbone.decode(observation, self.num_tokens, lambda state: self.code_logits(state).argmax(-1))

    def latent_loss(self, slots: Tensor, codes: Tensor) -> Tensor:
        """Mean negative log-likelihood of the latent tokens over the whole vocabulary, nats a token (paper, policy)."""
        logits = self.backbone.token_logits(slots)
        return F.cross_entropy(logits.flatten(0, 1), (codes + self.backbone.first_latent_id).flatten())

    def slot_accuracy(self, slots: Tensor, codes: Tensor) -> Tensor:
        """Share [L] of moments whose code is the likeliest, per slot, teacher-forced."""
        return (self.code_logits(slots).argmax(-1) == codes).float().mean(0)
