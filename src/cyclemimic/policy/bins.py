"""Discrete actions: each number of a chunk is one of 256 tokens, predicted one after another.

Letters in shapes: B batch, D width of the language model, P proprioception axes, S steps of a chunk, A action axes,
X action tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.nn.batches import DemonstrationBatch, ObservationBatch
from cyclemimic.policy.action_heads import (
    HeadConfig,
    HeadOutput,
    HeadSizes,
    check_proprioception,
    mean_where,
    of_body,
    waves,
)
from cyclemimic.policy.backbone import BackboneOutput


class BinsHead(nn.Module):
    """Actions as words of the language model (paper, ablation, discrete decoding; after OpenVLA).

    Every axis of every step falls into one of 256 equal bins between the 1st and the 99th percentile of the
    demonstrations, that is between -1 and 1 once normalised by quantiles. Bins are rows of the vocabulary; step after
    step and axis after axis they follow ACT, each seeing those before it; cross-entropy over the whole vocabulary.
    The only layer of its own puts the robot's state into ACT's embedding, so that this row of the ablation knows what
    the others know.
    """

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.bodies, self.octaves, self.count = sizes.bodies, config.octaves, config.bins
        self.first_bin_id = sizes.first_bin_id
        self.num_action_tokens = max(b.chunk_steps * b.action_width for b in sizes.bodies)
        self.width, waves_each = sizes.state_width, 1 + 2 * config.octaves
        self.state = nn.ModuleList(
            nn.Linear(b.proprioception_width * waves_each, self.width) if b.proprioception_width else nn.Identity()
            for b in sizes.bodies
        )

    @staticmethod
    def num_bins(config: HeadConfig) -> int:
        """One token per bin, shared by all axes."""
        return config.bins

    def shift(self, observation: ObservationBatch) -> Tensor | None:
        """The robot's state as a change of ACT's embedding [B, D]."""
        state = observation.proprioception
        check_proprioception(state, self.bodies)
        if state is None:
            return None
        told = [
            layer(waves(state[:, : body.proprioception_width], self.octaves))
            if body.proprioception_width
            else state.new_zeros(len(state), self.width)
            for layer, body in zip(self.state, self.bodies, strict=True)
        ]
        return of_body(told, observation.body)

    def tokens(self, actions: Tensor, body: Tensor | None) -> Tensor | None:
        """Bins [B, X] of normalised actions [B, S, A]; what lies outside [-1, 1] falls into the first or last bin."""
        bins = ((actions + 1) / 2 * self.count).floor().long().clamp(0, self.count - 1)
        return self._in_line(bins, body)

    def forward(self, output: BackboneOutput, observation: ObservationBatch) -> HeadOutput:
        """Chunks [B, S, A]: the middles of the chosen bins, or, teacher-forced, of the likeliest."""
        if output.bin_logits is None:
            assert output.bins is not None
            bins = output.bins
        else:
            first = self.first_bin_id
            bins = output.bin_logits[..., first : first + self.count].argmax(-1)
        middles = (bins.to(output.act.dtype) + 0.5) / self.count * 2 - 1
        shaped = [
            middles[:, : b.chunk_steps * b.action_width].view(-1, b.chunk_steps, b.action_width) for b in self.bodies
        ]
        return HeadOutput(actions=of_body(shaped, observation.body), logits=output.bin_logits)

    def losses(self, said: HeadOutput, batch: DemonstrationBatch) -> Mapping[str, Tensor]:
        """Mean negative log-likelihood of the bins of real steps, nats a number."""
        assert said.logits is not None and batch.actions is not None and batch.action_mask is not None
        body = batch.observation.body
        wanted = self.tokens(batch.actions, body)
        assert wanted is not None
        mask = batch.action_mask[..., None].expand(batch.actions.shape)
        if batch.axis_mask is not None:
            mask = mask & batch.axis_mask[:, None]
        counts = self._in_line(mask, body)
        nats = F.cross_entropy(said.logits.flatten(0, 1), (wanted + self.first_bin_id).flatten(), reduction="none")
        return {"action_nll": mean_where(nats, counts.flatten())}

    def _in_line(self, values: Tensor, body: Tensor | None) -> Tensor:
        """[B, S, A] to [B, X], step by step and axis by axis of each row's own body; 0 or False behind."""
        return of_body([values[:, : b.chunk_steps, : b.action_width].flatten(1) for b in self.bodies], body)
