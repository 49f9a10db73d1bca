"""An ActionHead that is one linear layer per body, from the ACT query's state and proprioception to a chunk."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cyclemimic.nn.batches import DemonstrationBatch, ObservationBatch
from cyclemimic.policy.action_heads import (
    HeadConfig,
    HeadOutput,
    HeadSizes,
    action_loss,
    check_proprioception,
    of_body,
)
from cyclemimic.policy.backbone import BackboneOutput


class LinearHead(nn.Module):
    """Speaks in numbers, so that no action tokens stand behind ACT."""

    num_action_tokens = 0

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.bodies = sizes.bodies
        self.layers = nn.ModuleList(
            nn.Linear(sizes.state_width + body.proprioception_width, body.chunk_steps * body.action_width)
            for body in sizes.bodies
        )

    @staticmethod
    def num_bins(config: HeadConfig) -> int:
        return 0

    def shift(self, observation: ObservationBatch) -> Tensor | None:
        return None

    def tokens(self, actions: Tensor, body: Tensor | None) -> Tensor | None:
        return None

    def forward(self, output: BackboneOutput, observation: ObservationBatch) -> HeadOutput:
        check_proprioception(observation.proprioception, self.bodies)
        chunks = []
        for body, layer in zip(self.bodies, self.layers, strict=True):
            known = [output.act]
            if body.proprioception_width and observation.proprioception is not None:
                known.append(observation.proprioception[:, : body.proprioception_width])
            chunks.append(layer(torch.cat(known, dim=1)).view(-1, body.chunk_steps, body.action_width))
        return HeadOutput(actions=of_body(chunks, observation.body))  # of each row's own body, padded

    def losses(self, said: HeadOutput, batch: DemonstrationBatch) -> Mapping[str, Tensor]:
        assert batch.actions is not None and batch.action_mask is not None
        return {"action_l1": action_loss(said.actions, batch.actions, batch.action_mask, batch.axis_mask)}
