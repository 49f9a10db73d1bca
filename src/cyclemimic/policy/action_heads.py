"""Action heads: from the ACT query's state and the visual features to a chunk of physical actions.

Letters in shapes: B batch, D width of the language model, C channels of the feature map, F width of the reader,
L tokens of a latent action, K codes, P proprioception axes, S steps of a chunk, A action axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.policy.backbone import BackboneOutput
from cyclemimic.policy.towers import FiLM

HINDSIGHT_AXES = 3  # x, y, z of the hand at the end of the demonstration


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Sizes of the action decoder; the defaults come from short runs on a CPU."""

    channels: int = 48
    maps: int = 32  # spatial softmax maps, each gives one point of the picture
    hidden: int = 128  # F
    chunk_steps: int = 4  # S


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """What a head says, normalised."""

    actions: Tensor  # [B, S, A]
    hindsight: Tensor  # [B, 3], where the hand will be at the end


class ActionHead(Protocol):
    """Reads a backbone's output."""

    proprioception_width: int

    def __call__(self, output: BackboneOutput, proprioception: Tensor | None) -> HeadOutput:
        """Chunks [B, S, A]; `proprioception` [B, P] is normalised, None only where the head has P = 0."""
        ...


class SteeredReader(nn.Module):
    """Looks at the feature map again, steered by the ACT query's state: FiLM, spatial softmax, one linear layer.

    Late binding of word and colour is what fails at desk scale; this reader is what mends it. UniVLA's head pools
    visual embeddings for the same reason. It is all of the action decoder that pre-training can train.
    """

    def __init__(self, config: HeadConfig, *, state_width: int, map_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(state_width)
        self.conv = nn.Conv2d(map_channels, config.channels, 3, padding=1)
        self.film = FiLM(state_width, config.channels)
        self.heat = nn.Conv2d(config.channels, config.maps, 1)
        self.join = nn.Linear(2 * config.maps + state_width, config.hidden)

    def forward(self, state: Tensor, feature_map: Tensor) -> Tensor:
        """ACT state [B, D] and map [B, C, rows, columns] to features [B, F] before their non-linearity."""
        condition = self.norm(state)
        points = spatial_softmax(self.heat(F.relu(self.film(self.conv(feature_map), condition))))
        return self.join(torch.cat([points, condition], 1))  # type: ignore[no-any-return]


class ActQueryHead(nn.Module):
    """ACT query state and picture to a chunk, with an auxiliary guess of where the hand will end (paper, policy).

    Proprioception enters here only, through a linear path that starts at zero: a reader that was pre-trained on video
    (which has no proprioception) therefore starts fine-tuning with the features it ended pre-training with, and one
    that was not starts the same way. Everything behind the reader is new in fine-tuning.
    """

    def __init__(
        self,
        config: HeadConfig,
        *,
        state_width: int,
        map_channels: int,
        action_width: int,
        proprioception_width: int = 0,
    ) -> None:
        super().__init__()
        self.chunk_steps, self.action_width = config.chunk_steps, action_width
        self.proprioception_width = proprioception_width
        self.reader = SteeredReader(config, state_width=state_width, map_channels=map_channels)
        self.body = nn.Linear(proprioception_width, config.hidden) if proprioception_width else None
        if self.body is not None:
            nn.init.zeros_(self.body.weight)
            nn.init.zeros_(self.body.bias)
        self.mix = nn.Linear(config.hidden, config.hidden)
        self.actions = nn.Linear(config.hidden, config.chunk_steps * action_width)
        self.hindsight = nn.Linear(config.hidden, HINDSIGHT_AXES)

    def forward(self, output: BackboneOutput, proprioception: Tensor | None) -> HeadOutput:
        """Chunks [B, S, A] and end points [B, 3].

        Raises:
            InputError: proprioception is missing, unexpected, or of another width than in training.
        """
        found = 0 if proprioception is None else proprioception.shape[1]
        if found != self.proprioception_width:
            raise InputError(
                "proprioception",
                expected=f"{self.proprioception_width} axes, as in training",
                got=f"{found} axes",
                remedy="Give the robot's state in the order of its table.",
            )
        features = self.reader(output.act, output.visual.map)
        if self.body is not None:
            features = features + self.body(proprioception)
        hidden = F.gelu(self.mix(F.gelu(features)))
        return HeadOutput(
            actions=self.actions(hidden).unflatten(1, (self.chunk_steps, self.action_width)),
            hindsight=self.hindsight(hidden),
        )


class CodeReadout(nn.Module):
    """Codes from the reader's features: pre-trains the decoder's visual path, then goes. Engineering."""

    def __init__(self, hidden: int, *, num_codes: int, num_tokens: int) -> None:
        super().__init__()
        self.num_codes, self.num_tokens = num_codes, num_tokens
        self.codes = nn.Linear(hidden, num_tokens * num_codes)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, F] to logits [B, L, K]."""
        return self.codes(F.gelu(features)).unflatten(1, (self.num_tokens, self.num_codes))  # type: ignore[no-any-return]


def spatial_softmax(heat: Tensor) -> Tensor:
    """Expected coordinates [B, 2 M] in [-1, 1] of M heat maps [B, M, rows, columns]: first all rows, then columns."""
    weight = heat.flatten(2).softmax(-1).unflatten(2, heat.shape[2:])
    y = torch.linspace(-1, 1, heat.shape[2], device=heat.device, dtype=heat.dtype)
    x = torch.linspace(-1, 1, heat.shape[3], device=heat.device, dtype=heat.dtype)
    return torch.cat([weight.sum(3) @ y, weight.sum(2) @ x], 1)


def action_loss(predicted: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the steps [B, S] that `mask` marks as real (paper, policy, L1 on actions)."""
    error = (predicted - actions).abs().mean(-1) * mask
    return error.sum() / mask.sum().clamp_min(1)


def hindsight_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the guessed end point [B, 3], normalised. Engineering."""
    return (predicted - target).abs().mean()


def readout_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy of the codes [B, L] under logits [B, L, K], nats per token. Engineering."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())
