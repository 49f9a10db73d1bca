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
from cyclemimic.nn.collectives import global_mean, num_processes
from cyclemimic.policy.backbone import BackboneOutput
from cyclemimic.policy.towers import FiLM

HINDSIGHT_AXES = 3  # x, y, z of the hand at the end of the demonstration


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Sizes of the action decoder; the defaults come from the desk-scale studies."""

    channels: int = 48
    norm_groups: int = 4  # normalised before the state modulates: the gap between seeds closes
    maps: int = 32  # spatial softmax maps, each gives one point of the picture
    sharpness: float = 5.0  # factor on the heat maps, so that points leave the middle of the picture early
    reader_width: int = 128  # F
    mlp_width: int = 256
    octaves: int = 3  # waves per number of state and goal: rules of contact have edges of a centimetre
    chunk_steps: int = 4  # S
    end_cells: int = 64  # cells of the picture in one of which a clip ends; for pre-training


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
    """Looks at the feature map again, steered by the ACT query's state: FiLM, spatial softmax, one layer.

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

    def forward(self, state: Tensor, feature_map: Tensor) -> Tensor:
        """ACT state [B, D] and map [B, C, rows, columns] to features [B, F]."""
        seen = F.group_norm(self.conv(feature_map), self.groups)
        steered = F.relu(self.film(seen, self.norm(state)))
        return F.gelu(self.join(spatial_softmax(self.sharpness * self.heat(steered))))


class ActQueryHead(nn.Module):
    """ACT query state and picture to a chunk, by way of a guess where the hand will end (paper 1.3).

    The guess is trained by the demonstration itself (`hindsight_loss`) and enters the actions beside the robot's
    state: most actions lead from one to the other. Proprioception enters behind the reader only. Video has none, so
    that everything behind the reader is new in fine-tuning, whether the reader was pre-trained or not.
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
        self.proprioception_width, self.octaves = proprioception_width, config.octaves
        self.reader = SteeredReader(config, state_width=state_width, map_channels=map_channels)
        self.hindsight = nn.Linear(config.reader_width, HINDSIGHT_AXES)
        numbers = (HINDSIGHT_AXES + proprioception_width) * (1 + 2 * config.octaves)
        self.mlp = nn.Sequential(
            nn.Linear(config.reader_width + numbers, config.mlp_width),
            nn.ReLU(),
            nn.Linear(config.mlp_width, config.mlp_width),
            nn.ReLU(),
            nn.Linear(config.mlp_width, config.chunk_steps * action_width),
        )

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
        goal = self.hindsight(features)
        numbers = goal if proprioception is None else torch.cat([goal, proprioception], 1)
        actions = self.mlp(torch.cat([features, waves(numbers, self.octaves)], 1))
        return HeadOutput(actions=actions.view(-1, self.chunk_steps, self.action_width), hindsight=goal)


class CodeReadout(nn.Module):
    """Codes from the reader's features: pre-trains the decoder's visual path, then goes. Engineering."""

    def __init__(self, reader_width: int, *, num_codes: int, num_tokens: int) -> None:
        super().__init__()
        self.num_codes, self.num_tokens = num_codes, num_tokens
        self.codes = nn.Linear(reader_width, num_tokens * num_codes)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, F] to logits [B, L, K]."""
        return self.codes(features).view(-1, self.num_tokens, self.num_codes)  # type: ignore[no-any-return]


def waves(numbers: Tensor, octaves: int) -> Tensor:
    """[B, N] to [B, N (1 + 2 octaves)]: the numbers, their sines, their cosines at 1.5, 3, 6 ... rad per unit."""
    scaled = [1.5 * 2**octave * numbers for octave in range(octaves)]
    return torch.cat([numbers, *map(torch.sin, scaled), *map(torch.cos, scaled)], 1)


def spatial_softmax(heat: Tensor) -> Tensor:
    """Expected coordinates [B, 2 M] in [-1, 1] of heat maps [B, M, rows, columns]: all rows, then all columns."""
    rows, columns = heat.shape[2:]
    weight = heat.flatten(2).softmax(-1).view(heat.shape)
    y = torch.linspace(-1, 1, rows, device=heat.device, dtype=heat.dtype)
    x = torch.linspace(-1, 1, columns, device=heat.device, dtype=heat.dtype)
    return torch.cat([weight.sum(3) @ y, weight.sum(2) @ x], 1)


def action_loss(predicted: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the steps [B, S] that `mask` marks as real (paper, policy, L1 on actions)."""
    error = (predicted - actions).abs().mean(-1) * mask
    # Real steps of the whole batch, as a mean over the processes: the mean of their losses is then the batch's.
    return error.sum() / global_mean(mask.sum()).clamp_min(1 / num_processes())


def hindsight_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the guessed end point [B, 3], normalised. Engineering."""
    return (predicted - target).abs().mean()


def readout_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy of the codes [B, L] under logits [B, L, K], nats per token. Engineering."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def end_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean cross-entropy of where a clip ends, logits and shares [B, cells], nats. Engineering."""
    return F.cross_entropy(logits, shares)
