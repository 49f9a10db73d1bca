"""The reader that pre-training and action heads share, what is read out of it before there are actions, and its losses.

Letters in shapes: B batch, D width of the language model, C channels of the feature map, F width of the reader,
L tokens of a latent action, K codes, M maps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.policy.towers import FiLM

if TYPE_CHECKING:
    from cyclemimic.policy.action_heads import HeadConfig


class SteeredReader(nn.Module):
    """Looks at a feature map again, steered by the ACT query's state: FiLM, spatial softmax, one layer.

    Late binding of word and colour is what fails at desk scale; this reader is what mends it. UniVLA's head pools
    visual embeddings for the same reason. The state steers and does nothing else: given to what follows as well,
    it is a way round the picture, by which 20 demonstrations are learnt by heart. The reader is all of the action
    decoder that pre-training can train.
    """

    def __init__(self, config: HeadConfig, *, state_width: int, map_channels: int) -> None:
        super().__init__()
        self.sharpness, self.groups = config.sharpness, config.norm_groups
        self.norm = nn.LayerNorm(state_width)
        self.conv = nn.Conv2d(map_channels, config.channels, 3, padding=1)
        self.film = FiLM(state_width, config.channels)
        self.heat = nn.Conv2d(config.channels, config.maps, 1)
        self.join = nn.Linear(2 * config.maps, config.reader_width)
        if config.keypoint:
            side = math.isqrt(config.end_cells)
            if side**2 != config.end_cells:
                raise InputError(
                    "HeadConfig.end_cells",
                    expected="a square number, with a keypoint",
                    got=str(config.end_cells),
                    remedy="Take 64, the cells of data/hindsight.py.",
                )
            self.moving = nn.Linear(config.reader_width, config.end_cells)

    def forward(self, state: Tensor, feature_map: Tensor) -> Tensor:
        """ACT state [B, D] and map [B, C, rows, columns] to features [B, F]."""
        seen = F.group_norm(self.conv(feature_map), self.groups)
        steered = F.relu(self.film(seen, self.norm(state)))
        return F.gelu(self.join(spatial_softmax(self.sharpness * self.heat(steered))))


def keypoint(moving: Tensor) -> Tensor:
    """Where things move: the mean place [B, 2], down and across in [-1, 1], of logits [B, cells] of a square grid.

    Guessed from the one picture, so that it is known whenever the policy acts. Engineering.
    """
    side = math.isqrt(moving.shape[1])
    return spatial_softmax(moving.view(-1, 1, side, side))


class CodeReadout(nn.Module):
    """Codes from the reader's features: pre-trains the decoder's visual path, then goes. Engineering."""

    def __init__(self, reader_width: int, *, num_codes: int, num_tokens: int) -> None:
        super().__init__()
        self.num_codes, self.num_tokens = num_codes, num_tokens
        self.codes = nn.Linear(reader_width, num_tokens * num_codes)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, F] to logits [B, L, K]."""
        return self.codes(features).view(-1, self.num_tokens, self.num_codes)  # type: ignore[no-any-return]


def spatial_softmax(heat: Tensor) -> Tensor:
    """Expected coordinates [B, 2 M] in [-1, 1] of heat maps [B, M, rows, columns]: all rows, then all columns."""
    rows, columns = heat.shape[2:]
    weight = heat.flatten(2).softmax(-1).view(heat.shape)
    y = torch.linspace(-1, 1, rows, device=heat.device, dtype=heat.dtype)
    x = torch.linspace(-1, 1, columns, device=heat.device, dtype=heat.dtype)
    return torch.cat([weight.sum(3) @ y, weight.sum(2) @ x], 1)


def readout_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy of the codes [B, L] under logits [B, L, K], nats per token. Engineering."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def end_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean cross-entropy of where a clip ends, or where it moves; logits and shares [B, cells], nats. Engineering."""
    return F.cross_entropy(logits, shares)
