"""The trainable whole of the policy, its configuration, and its form on disk (safetensors and JSON).

Letters in shapes: B batch, L tokens of a latent action, K codes, A action axes, P proprioception axes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
    ActionHead,
    ActQueryHead,
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
from cyclemimic.policy.reader import CodeReadout, SteeredReader
from cyclemimic.policy.towers import ConvTowerConfig, PrismaticVisionConfig
from cyclemimic.policy.vocabulary import NUM_SPECIAL, Vocabulary
from cyclemimic.randomness import entropy_for
from cyclemimic.store.weights import load_tensors, save_tensors

WEIGHTS_FILE, NETWORK_FILE = "model.safetensors", "network.json"
READER = "head.reader."  # the part of the head that pre-training and fine-tuning share
DECODERS = "head.decoders."  # one for each body
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


class PretrainHead(nn.Module):
    """The reader of the later action head, and two readouts that are thrown away after pre-training."""

    def __init__(self, spec: NetworkSpec, backbone: Backbone) -> None:
        super().__init__()
        head = spec.config.head
        self.reader = SteeredReader(head, state_width=backbone.width, map_channels=backbone.map_channels)
        self.readout = CodeReadout(head.reader_width, num_codes=spec.vocabulary.num_codes, num_tokens=spec.num_tokens)
        self.end = nn.Linear(head.reader_width, head.end_cells)

    def forward(self, output: BackboneOutput) -> tuple[Tensor, Tensor]:
        """From what the reader sees: logits [B, L, K] of the codes, and of the cell where the clip ends [B, cells]."""
        seen = self.reader(output.act, output.visual.map)
        return self.readout(seen), self.end(seen)


class PretrainNetwork(nn.Module):
    """Latent policy and pre-training head: everything that video without actions can train."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.latent = _latent_policy(spec)
        self.head = PretrainHead(spec, self.latent.backbone)

    def forward(self, observation: ObservationBatch, codes: Tensor) -> tuple[BackboneOutput, Tensor, Tensor]:
        """States of a teacher-forced pass, the head's code logits [B, L, K] and its logits of where the clip ends.

        The ACT query is blind to the latent tokens here: it would otherwise hand the head the very codes it must find.
        """
        output = self.latent(observation, codes, torch.ones(len(codes), dtype=torch.bool, device=codes.device))
        return (output, *self.head(output))


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


def build_pretrain_network(spec: NetworkSpec, *, seed: int) -> PretrainNetwork:
    """Random weights that depend on `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "pretrain-weights"))
        return PretrainNetwork(spec)


def build_policy_network(spec: NetworkSpec, *, seed: int) -> PolicyNetwork:
    """Random weights that depend on `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "policy-weights"))
        return PolicyNetwork(spec)


def load_pretrained(
    network: PolicyNetwork, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, *, decoder: bool = False
) -> None:
    """Take over latent policy and reader of a pre-trained network; what is behind the reader stays new.

    Where it was a policy already, see `keeps_decoder`, its action `decoder` can be taken over too.
    Tokens that the pre-training's `vocabulary` lacks keep their new rows if they are action tokens, and get the mean of
    the known words' rows if they are words: nothing is known of them but that they are words. Engineering.
    """
    own = network.state_dict()
    parts = ("latent.", READER) if any(name.startswith(READER) for name in own) else ("latent.",)
    if decoder:
        parts = (*parts, DECODERS)
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


def keeps_decoder(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the weights `tensors` hold one action decoder, and it fits the only one of `own`."""
    sizes = [{n: v.shape for n, v in some.items() if n.startswith(DECODERS)} for some in (own, tensors)]
    return bool(sizes[0]) and sizes[0] == sizes[1] and all(name.startswith(f"{DECODERS}0.") for name in sizes[0])


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
