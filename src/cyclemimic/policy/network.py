"""The trainable whole of the policy, its configuration, and its form on disk (safetensors and JSON).

Letters in shapes: B batch, L tokens of a latent action, K codes, A action axes, P proprioception axes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cyclemimic.errors import InputError
from cyclemimic.names import named
from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.nn.vit_families import VitSize
from cyclemimic.policy.action_heads import (
    HINDSIGHT_AXES,
    KEYPOINT_AXES,
    ActionHead,
    ActQueryHead,
    BodyDecoder,
    BodyWidths,
    HeadConfig,
    HeadOutput,
    HeadSizes,
    LatentHead,
)
from cyclemimic.policy.backbone import Backbone, BackboneOutput, Tail
from cyclemimic.policy.bins import BinsHead
from cyclemimic.policy.latent_policy import LatentPolicy
from cyclemimic.policy.prismatic import PrismaticBackbone, PrismaticConfig
from cyclemimic.policy.reader import CodeReadout, SteeredReader, keypoint
from cyclemimic.policy.towers import ConvTowerConfig, PrismaticVisionConfig
from cyclemimic.policy.vocabulary import NUM_SPECIAL, Vocabulary
from cyclemimic.randomness import entropy_for
from cyclemimic.store.weights import load_tensors, save_tensors

WEIGHTS_FILE, NETWORK_FILE = "model.safetensors", "network.json"
READER = "head.reader."  # the part of the head that pre-training and fine-tuning share
DECODERS = "head.decoders."  # one for each body
LAST_LAYER = f"{DECODERS}0.mlp.4."
BACKBONE = "latent.backbone."
VIEWS = BACKBONE + "views"  # all that a network of more cameras has beyond one of fewer

# One literal table per kind of thing.
BACKBONES: dict[str, Callable[[PrismaticConfig, Vocabulary], Backbone]] = {"prismatic": PrismaticBackbone}
HEADS: dict[str, type[ActionHead]] = {"act_query": ActQueryHead, "latent": LatentHead, "bins": BinsHead}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of backbone and head; what both training stages share."""

    backbone_kind: str = "prismatic"  # or package.module:name of a `Backbone`
    backbone: PrismaticConfig = field(default_factory=PrismaticConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All that is needed to build a network anew: sizes, words, codes, and the bodies (none in pre-training)."""

    config: NetworkConfig
    vocabulary: Vocabulary
    num_tokens: int  # l_z
    bodies: tuple[BodyWidths, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "config": asdict(self.config),
            "vocabulary": self.vocabulary.to_json(),
            "num_tokens": self.num_tokens,
            "bodies": [asdict(body) for body in self.bodies],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> NetworkSpec:
        """Undo `to_json`."""
        backbone = dict(found["config"]["backbone"])
        conv, vit = dict(backbone.pop("conv_tower")), dict(backbone.pop("prismatic_vision"))
        dino, siglip = VitSize(**vit.pop("dino")), VitSize(**vit.pop("siglip"))
        return cls(
            config=NetworkConfig(
                backbone_kind=str(found["config"].get("backbone_kind", "prismatic")),
                backbone=PrismaticConfig(
                    **backbone,
                    conv_tower=ConvTowerConfig(**{**conv, "channels": tuple(conv["channels"])}),
                    prismatic_vision=PrismaticVisionConfig(**vit, dino=dino, siglip=siglip),
                ),
                head=HeadConfig(**found["config"]["head"]),
            ),
            vocabulary=Vocabulary.from_json(found["vocabulary"]),
            num_tokens=int(found["num_tokens"]),
            bodies=tuple(BodyWidths(**body) for body in found["bodies"]),
        )


@dataclass(frozen=True, kw_only=True)
class PretrainSaid:
    """What the pre-training head says."""

    codes: Tensor  # [B, L, K], logits
    end: Tensor  # [B, cells], logits of where the clip ends
    goal: Tensor | None = None  # [B, 3], of a decoder: where the hand will end
    moving: Tensor | None = None  # [B, cells], logits of where things move now


class PretrainHead(nn.Module):
    """The reader of the later action head, and readouts that are thrown away after pre-training.

    Where the robot's state is known (`spec.bodies` says how wide it is), or a keypoint stands for it, codes are read by
    a decoder as actions will be, and all of it but its last layer is kept. The guess of where things move is asked for
    by `moving`; with a keypoint it is the reader's, and kept.
    """

    def __init__(self, spec: NetworkSpec, backbone: Backbone, *, moving: bool = False) -> None:
        super().__init__()
        head = spec.config.head
        self.reader = SteeredReader(head, state_width=backbone.width, map_channels=backbone.map_channels)
        self.with_state = bool(spec.bodies)
        if self.with_state:
            self.decoders = nn.ModuleList([BodyDecoder(head, spec.bodies[0], features_width=head.reader_width)])
        else:
            self.readout = CodeReadout(
                head.reader_width, num_codes=spec.vocabulary.num_codes, num_tokens=spec.num_tokens
            )
        self.end = nn.Linear(head.reader_width, head.end_cells)
        self.keypoint = head.keypoint
        # Behind all others, so that their first weights are the same without it.
        self.moving = nn.Linear(head.reader_width, head.end_cells) if moving and not head.keypoint else None

    def forward(self, output: BackboneOutput, state: Tensor | None = None) -> PretrainSaid:
        """From what the reader sees, and the state [B, P] where it is known."""
        seen = self.reader(output.act, output.visual.map)
        guess = self.reader.moving if self.keypoint else self.moving
        moving: Tensor | None = None if guess is None else guess(seen)
        if not self.with_state:
            return PretrainSaid(codes=self.readout(seen), end=self.end(seen), moving=moving)
        place = keypoint(moving) if self.keypoint and moving is not None else None
        logits, goal = self.decoders[0](seen, state, place)
        return PretrainSaid(codes=logits, end=self.end(seen), goal=goal, moving=moving)


class PretrainNetwork(nn.Module):
    """Latent policy and pre-training head: everything that video without actions can train."""

    def __init__(self, spec: NetworkSpec, *, moving: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.latent = _latent_policy(spec)
        self.head = PretrainHead(spec, self.latent.backbone, moving=moving)

    def forward(self, observation: ObservationBatch, codes: Tensor) -> tuple[BackboneOutput, Tensor, Tensor]:
        """States of a teacher-forced pass, the head's code logits [B, L, K] and its logits of where the clip ends."""
        output, said = self.whole(observation, codes)
        return output, said.codes, said.end

    def whole(self, observation: ObservationBatch, codes: Tensor) -> tuple[BackboneOutput, PretrainSaid]:
        """States of a teacher-forced pass, and all that the head says.

        The ACT query is blind to the latent tokens here: it would otherwise hand the head the very codes it must find.
        """
        output = self.latent(observation, codes, torch.ones(len(codes), dtype=torch.bool, device=codes.device))
        return output, self.head(output, observation.proprioception)


class PolicyNetwork(nn.Module):
    """Latent policy and action head: what acts."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.latent = _latent_policy(spec)
        backbone, config = self.latent.backbone, spec.config
        sizes = HeadSizes(
            state_width=backbone.width,
            map_channels=backbone.map_channels,
            first_bin_id=spec.vocabulary.first_bin_id,
            bodies=spec.bodies,
            extra_cameras=config.backbone.extra_cameras,
        )
        self.head: ActionHead = head_class(config.head)(config.head, sizes)

    def forward(
        self,
        observation: ObservationBatch,
        codes: Tensor,
        blind: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> tuple[BackboneOutput, HeadOutput]:
        """Teacher-forced states and the head's chunk; a head that speaks in action tokens needs `actions` [B, S, A]."""
        bins = None if actions is None else self.head.tokens(actions, observation.body)
        output = self.latent(observation, codes, blind, Tail(shift=self.head.shift(observation), bins=bins))
        return output, self.head(output, observation)

    def generate(self, observation: ObservationBatch) -> tuple[Tensor, HeadOutput]:
        """Codes [B, L], greedy, and the chunk behind them: what happens when the policy acts."""
        codes, output = self.latent.generate(
            observation, shift=self.head.shift(observation), num_bins=self.head.num_action_tokens
        )
        return codes, self.head(output, observation)


def head_class(config: HeadConfig) -> type[ActionHead]:
    """The class of action head that `config.kind` names."""
    return named("HeadConfig.kind", config.kind, HEADS)


def build_pretrain_network(spec: NetworkSpec, *, seed: int, moving: bool = False) -> PretrainNetwork:
    """Random weights that depend on `seed` alone; the global generator is left as it was.

    `moving`: with a guess of where things move now.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "pretrain-weights"))
        return PretrainNetwork(spec, moving=moving)


def build_policy_network(spec: NetworkSpec, *, seed: int) -> PolicyNetwork:
    """Random weights that depend on `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "policy-weights"))
        return PolicyNetwork(spec)


def load_pretrained(
    network: PolicyNetwork, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, *, decoder: Collection[str] = ()
) -> None:
    """Take over latent policy and reader of a pre-trained network; what is behind the reader stays new.

    Weights of its `decoder`, see `kept_decoder`, can be taken over too.
    Tokens that the pre-training's `vocabulary` lacks keep their new rows if they are action tokens, and get the mean of
    the known words' rows if they are words: nothing is known of them but that they are words. Engineering.
    """
    own = network.state_dict()
    parts = ("latent.", READER) if any(name.startswith(READER) for name in own) else ("latent.",)
    parts = (*parts, *decoder)
    kept = {name: value for name, value in tensors.items() if name.startswith(parts)}
    for name in network.latent.backbone.vocabulary_rows:
        if (full := BACKBONE + name) in kept and full in own:
            kept[full] = _carried_rows(own[full], kept[full], network.spec.vocabulary, vocabulary)
    wanted = {name for name in own if name.startswith(parts)} - {VIEWS}
    differing = sorted(n for n in wanted | set(kept) if n not in own or n not in kept or own[n].shape != kept[n].shape)
    if differing:
        raise InputError(
            "pre-trained weights",
            expected="a network of the same sizes, words and codes",
            got=f"{len(differing)} weights that differ, the first {differing[0]!r}",
            remedy="Use the configuration and the vocabulary of the pre-training.",
        )
    network.load_state_dict({**own, **kept})


def kept_decoder(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, acts: bool) -> tuple[str, ...]:
    """The decoder weights among `tensors` that fit `own`; none where either has several decoders, or sizes differ.

    Of pre-training with the robot's state, which does not act, the last layer says codes and is not kept.
    """
    shapes = [{n: v.shape for n, v in some.items() if n.startswith(DECODERS)} for some in (own, tensors)]
    if not acts:
        shapes = [{n: shape for n, shape in some.items() if not n.startswith(LAST_LAYER)} for some in shapes]
    single = all(name.startswith(f"{DECODERS}0.") for name in shapes[0])
    return tuple(shapes[0]) if single and shapes[0] == shapes[1] else ()


def with_room_for_state(tensors: Mapping[str, Tensor], before: NetworkSpec, now: NetworkSpec) -> dict[str, Tensor]:
    """The weights of a pre-training with a keypoint, its decoder's first layer grown for the state of the robot.

    The new columns are 0: the decoder begins as it was, blind to the state. Weights of any other pre-training, or for a
    policy without state, are given back as they are. Engineering.
    """
    grown = dict(tensors)
    widths = [[body.proprioception_width for body in spec.bodies] for spec in (before, now)]
    name, head = f"{DECODERS}0.mlp.0.weight", before.config.head
    if not head.keypoint or widths[0] != [0] or len(widths[1]) != 1 or name not in grown:
        return grown
    old, waves_each, known = grown[name], 1 + 2 * head.octaves, HINDSIGHT_AXES + KEYPOINT_AXES
    # Numbers stand wave by wave, [waves, numbers], behind the features: see `action_heads.waves`.
    features, numbers = old[:, : -waves_each * known], old[:, -waves_each * known :]
    room = old.new_zeros(len(old), waves_each, widths[1][0])
    numbers = torch.cat([numbers.view(len(old), waves_each, known), room], 2)
    grown[name] = torch.cat([features, numbers.flatten(1)], 1)
    return grown


def _carried_rows(fresh: Tensor, old: Tensor, ours: Vocabulary, theirs: Vocabulary) -> Tensor:
    """Rows [V, D] for `ours`, from `old` where `theirs` knows the token."""
    if len(old) != len(theirs) or old.shape[1:] != fresh.shape[1:]:
        return old  # of another size; the caller says so
    ids = torch.from_numpy(ours.ids_in(theirs))
    rows = torch.where((ids >= 0)[:, None], old[ids.clamp_min(0)], fresh)
    places = np.arange(len(ours))
    words = torch.from_numpy((places >= NUM_SPECIAL) & (places < ours.first_latent_id))
    rows[words & (ids < 0)] = old[NUM_SPECIAL : theirs.first_latent_id].mean(0)
    return rows


def save_network(folder: Path, spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> None:
    """Write `network.json` and `model.safetensors` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS_FILE, dict(tensors), {"kind": "policy network"})
    (folder / NETWORK_FILE).write_text(json.dumps(spec.to_json(), indent=1))


def read_spec(folder: Path) -> NetworkSpec:
    """The specification that `save_network` wrote.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = folder / NETWORK_FILE
    try:
        return NetworkSpec.from_json(json.loads(path.read_text()))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(
            path,
            expected="a policy network's specification",
            got=f"{type(error).__name__}: {error}",
            remedy="Name a folder that pretrain or finetune wrote.",
        ) from error


def read_network(folder: Path) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Specification and weights of a network on disk."""
    spec = read_spec(folder)
    tensors, _ = load_tensors(folder / WEIGHTS_FILE)
    return spec, tensors


def _latent_policy(spec: NetworkSpec) -> LatentPolicy:
    make = named("NetworkConfig.backbone_kind", spec.config.backbone_kind, BACKBONES)
    return LatentPolicy(make(spec.config.backbone, spec.vocabulary), spec.vocabulary, num_tokens=spec.num_tokens)
