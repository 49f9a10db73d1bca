"""Action heads: from the ACT query's state and the visual features to a chunk of physical actions.

Letters in shapes: B batch, D width of the language model, C channels of the feature map, F width of the reader,
L tokens of a latent action, P proprioception axes, S steps of a chunk, A action axes, X action tokens,
V vocabulary, E bodies. Where bodies differ, S, A and P are the longest and widest, padded with 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import DemonstrationBatch, ObservationBatch
from cyclemimic.nn.collectives import global_mean, num_processes
from cyclemimic.policy.backbone import BackboneOutput
from cyclemimic.policy.reader import SteeredReader, keypoint

HINDSIGHT_AXES = 3  # x, y, z of the hand at the end of the demonstration
KEYPOINT_AXES = 2  # down and across, where things move in the picture


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Kind and sizes of the action decoder; the defaults come from the desk-scale studies."""

    kind: str = "act_query"  # or latent, bins, package.module:name of an `ActionHead`
    channels: int = 48
    norm_groups: int = 4  # normalised before the state modulates: the gap between seeds closes
    maps: int = 32  # spatial softmax maps, each gives one point of the picture
    sharpness: float = 5.0  # factor on the heat maps, so that points leave the middle of the picture early
    reader_width: int = 128  # F
    mlp_width: int = 256
    octaves: int = 3  # waves per number of state and goal: rules of contact have edges of a centimetre
    chunk_steps: int = 4  # S, where chunk_s is None
    chunk_s: float | None = None  # length of a chunk in seconds: bodies of different rates look equally far ahead
    bins: int = 256  # action tokens of the head that speaks in them
    end_cells: int = 64  # cells of the picture in one of which a clip ends; for pre-training
    # Whether decoders are told where in the picture things move, guessed from the picture, beside the robot's state.
    keypoint: bool = field(default=False, metadata={"before": False})

    def steps_at(self, rate_hz: float) -> int:
        """S for a body that acts `rate_hz` times a second, at least 1."""
        return self.chunk_steps if self.chunk_s is None else max(1, round(self.chunk_s * rate_hz))


@dataclass(frozen=True, kw_only=True)
class BodyWidths:
    """What a network must know of a body: how many numbers go in and come out."""

    name: str
    action_width: int  # A of this body
    chunk_steps: int  # S of this body
    proprioception_width: int = 0  # P of this body


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """What surrounds a head."""

    state_width: int  # D
    map_channels: int  # C
    first_bin_id: int  # token id of the first action token
    bodies: tuple[BodyWidths, ...]
    extra_cameras: int = 0


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """What a head says, normalised."""

    actions: Tensor  # [B, S, A]
    hindsight: Tensor | None = None  # [B, 3], where the hand will be at the end
    moving: Tensor | None = None  # [B, cells], logits of where things move, of a head with a keypoint
    logits: Tensor | None = None  # [B, X, V], of a head that speaks in action tokens, teacher-forced


class ActionHead(Protocol):
    """Turns a backbone's output into actions. One from outside is an `nn.Module` of this constructor.

    Its weights are called `head.*`; those below `head.reader.` are taken over from pre-training and must then be a
    `SteeredReader`. All else is new in fine-tuning, and stays fully trained beside LoRA.
    """

    num_action_tokens: int  # X, how many action tokens are written behind ACT

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None: ...

    @staticmethod
    def num_bins(config: HeadConfig) -> int:
        """How many action tokens the vocabulary must hold."""
        ...

    def shift(self, observation: ObservationBatch) -> Tensor | None:
        """What is added to ACT's embedding [B, D]."""
        ...

    def tokens(self, actions: Tensor, body: Tensor | None) -> Tensor | None:
        """Actions [B, S, A] of bodies [B] as numbers of action tokens [B, X]; None where X = 0."""
        ...

    def __call__(self, output: BackboneOutput, observation: ObservationBatch) -> HeadOutput:
        """Chunks [B, S, A]."""
        ...

    def losses(self, said: HeadOutput, batch: DemonstrationBatch) -> Mapping[str, Tensor]:
        """What fine-tuning minimises of the actions, by the name under which it is logged."""
        ...


class BodyDecoder(nn.Module):
    """What one body has of its own behind the shared reader: a guess where the hand will end, and the actions."""

    def __init__(self, config: HeadConfig, body: BodyWidths, *, features_width: int) -> None:
        super().__init__()
        self.body, self.octaves = body, config.octaves
        self.hindsight = nn.Linear(features_width, HINDSIGHT_AXES)
        told = KEYPOINT_AXES * config.keypoint + body.proprioception_width
        numbers = (HINDSIGHT_AXES + told) * (1 + 2 * config.octaves)
        self.mlp = nn.Sequential(
            nn.Linear(features_width + numbers, config.mlp_width),
            nn.ReLU(),
            nn.Linear(config.mlp_width, config.mlp_width),
            nn.ReLU(),
            nn.Linear(config.mlp_width, body.chunk_steps * body.action_width),
        )

    def forward(
        self, features: Tensor, proprioception: Tensor | None, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features [B, F], state [B, P], this body's in front, and keypoint [B, 2] to chunks [B, S, A] and ends [B, 3].

        State and keypoint where there are any.
        """
        goal = self.hindsight(features)
        told = [goal] if place is None else [goal, place]
        if proprioception is not None:
            told.append(proprioception[:, : self.body.proprioception_width])
        actions = self.mlp(torch.cat([features, waves(torch.cat(told, 1), self.octaves)], 1))
        return actions.view(-1, self.body.chunk_steps, self.body.action_width), goal


class ActQueryHead(nn.Module):
    """ACT query state and picture to a chunk, by way of a guess where the hand will end (paper 1.3).

    The guess is trained by the demonstration itself (`hindsight_loss`) and enters the actions beside the robot's
    state: most actions lead from one to the other. Proprioception enters behind the reader only. Video has none, so
    that everything behind the reader is new in fine-tuning, whether the reader was pre-trained or not.

    Each further camera has a reader of its own, since the state only steers: what a wrist camera sees would reach
    the actions by the language model alone, and that way is narrow. Each body has a decoder of its own.
    """

    num_action_tokens = 0

    def __init__(self, config: HeadConfig, sizes: HeadSizes) -> None:
        super().__init__()
        self.bodies, self.keypoint = sizes.bodies, config.keypoint
        self.reader = SteeredReader(config, state_width=sizes.state_width, map_channels=sizes.map_channels)
        width = config.reader_width * (1 + sizes.extra_cameras)
        self.decoders = nn.ModuleList(BodyDecoder(config, body, features_width=width) for body in sizes.bodies)
        if sizes.extra_cameras:
            plain = replace(config, keypoint=False)
            self.extra_readers = nn.ModuleList(
                SteeredReader(plain, state_width=sizes.state_width, map_channels=sizes.map_channels)
                for _ in range(sizes.extra_cameras)
            )

    @staticmethod
    def num_bins(config: HeadConfig) -> int:
        """None: this head speaks in numbers."""
        return 0

    def state(self, output: BackboneOutput) -> Tensor:
        """The state [B, D] that steers the readers: the ACT query's."""
        return output.act

    def shift(self, observation: ObservationBatch) -> Tensor | None:
        """None: ACT's embedding stays as it is."""
        return None

    def tokens(self, actions: Tensor, body: Tensor | None) -> Tensor | None:
        """None: nothing stands behind ACT."""
        return None

    def forward(self, output: BackboneOutput, observation: ObservationBatch) -> HeadOutput:
        """Chunks [B, S, A] and end points [B, 3].

        Raises:
            InputError: proprioception is missing, unexpected, or of another width than in training.
        """
        check_proprioception(observation.proprioception, self.bodies)
        state = self.state(output)
        features = [self.reader(state, output.visual.map)]
        moving = self.reader.moving(features[0]) if self.keypoint else None
        place = None if moving is None else keypoint(moving)
        for i, visual in enumerate(output.extra):
            seen = self.extra_readers[i](state, visual.map)
            mask = observation.extra_seen
            features.append(seen if mask is None else seen * mask[:, i, None])
        seen = torch.cat(features, 1)
        found = [decoder(seen, observation.proprioception, place) for decoder in self.decoders]
        return HeadOutput(
            actions=of_body([actions for actions, _ in found], observation.body),
            hindsight=of_body([goal for _, goal in found], observation.body),
            moving=moving,
        )

    def losses(self, said: HeadOutput, batch: DemonstrationBatch) -> Mapping[str, Tensor]:
        """L1 on actions."""
        assert batch.actions is not None and batch.action_mask is not None
        return {"action_l1": action_loss(said.actions, batch.actions, batch.action_mask, batch.axis_mask)}


class LatentHead(ActQueryHead):
    """The same decoder, steered by the states at the latent tokens: no query (paper, ablation, latent decoding).

    Their mean, so that every size is that of `ActQueryHead` and only the source of the state differs. Each of these
    states must then predict the next latent token and carry the actions too.
    """

    def state(self, output: BackboneOutput) -> Tensor:
        """The mean state [B, D] at the latent tokens."""
        return output.latents.mean(1)


def of_body(found: Sequence[Tensor], body: Tensor | None) -> Tensor:
    """From what every body's layers say, [B, ...] each, the rows of the body they belong to; padded to the largest.

    All bodies' layers see all rows, so that every weight has a gradient at every update, in every process.
    """
    if len(found) == 1:
        return found[0]
    assert body is not None, "which of several bodies?"
    shape = [max(sizes) for sizes in zip(*(f.shape for f in found), strict=True)]
    whole: list[Tensor] = []
    for part in found:
        # From the last dimension to the first, as torch counts.
        room = [n for have, want in zip(part.shape[::-1], shape[::-1], strict=True) for n in (0, want - have)]
        whole.append(F.pad(part, room))
    return torch.stack(whole)[body, torch.arange(len(body), device=body.device)]


def check_proprioception(proprioception: Tensor | None, bodies: Sequence[BodyWidths]) -> None:
    """Raise InputError unless `proprioception` is [B, P] of the widest body, or None where no body has any."""
    found = 0 if proprioception is None else proprioception.shape[1]
    wanted = max(body.proprioception_width for body in bodies)
    if found != wanted:
        raise InputError(
            "proprioception",
            expected=f"{wanted} axes, as in training",
            got=f"{found} axes",
            remedy="Give the robot's state in the order of its table.",
        )


def waves(numbers: Tensor, octaves: int) -> Tensor:
    """[B, N] to [B, N (1 + 2 octaves)]: the numbers, their sines, their cosines at 1.5, 3, 6 ... rad per unit."""
    scaled = [1.5 * 2**octave * numbers for octave in range(octaves)]
    return torch.cat([numbers, *map(torch.sin, scaled), *map(torch.cos, scaled)], 1)


def action_loss(predicted: Tensor, actions: Tensor, mask: Tensor, axes: Tensor | None = None) -> Tensor:
    """Mean absolute error over the steps [B, S] that `mask` marks as real (paper, policy, L1 on actions).

    `axes` [B, A] marks the axes that a row's body has; all where None.
    """
    error = (predicted - actions).abs()
    error = error.mean(-1) if axes is None else (error * axes[:, None]).sum(-1) / axes.sum(-1, keepdim=True)
    return mean_where(error, mask)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` where `mask` is true, over the whole batch.

    Counted over all processes, as a mean over them: the mean of their losses is then the batch's.
    """
    return (values * mask).sum() / global_mean(mask.sum()).clamp_min(1 / num_processes())


def hindsight_loss(predicted: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error of the guessed end point [B, 3], normalised, over the rows of `mask` [B]. Engineering."""
    error = (predicted - target).abs()
    return error.mean() if mask is None else mean_where(error.mean(-1), mask)
