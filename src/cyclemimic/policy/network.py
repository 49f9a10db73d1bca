"""The trainable whole of the policy, its configuration, and its form on disk (safetensors and JSON).

Letters in shapes: B batch, L tokens of a latent action, K codes, A action axes, P proprioception axes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.nn.vit_families import VitSize
from cyclemimic.policy.action_heads import ActQueryHead, CodeReadout, HeadConfig, HeadOutput, SteeredReader
from cyclemimic.policy.backbone import BackboneOutput
from cyclemimic.policy.latent_policy import LatentPolicy
from cyclemimic.policy.prismatic import PrismaticBackbone, PrismaticConfig
from cyclemimic.policy.towers import ConvTowerConfig, PrismaticVisionConfig
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.randomness import entropy_for
from cyclemimic.store.weights import load_tensors, save_tensors

WEIGHTS_FILE, NETWORK_FILE = "model.safetensors", "network.json"
READER = "head.reader."  # the part of the head that pre-training and fine-tuning share


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of backbone and head; what both training stages share."""

    backbone: PrismaticConfig = field(default_factory=PrismaticConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All that is needed to build a network anew: sizes, words, codes, and the body (no action axes: pre-training)."""

    config: NetworkConfig
    vocabulary: Vocabulary
    num_tokens: int  # l_z
    action_width: int = 0
    proprioception_width: int = 0

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "config": asdict(self.config),
            "vocabulary": self.vocabulary.to_json(),
            "num_tokens": self.num_tokens,
            "action_width": self.action_width,
            "proprioception_width": self.proprioception_width,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> NetworkSpec:
        """Undo `to_json`."""
        backbone = dict(found["config"]["backbone"])
        conv, vit = dict(backbone.pop("conv_tower")), dict(backbone.pop("prismatic_vision"))
        dino, siglip = VitSize(**vit.pop("dino")), VitSize(**vit.pop("siglip"))
        return cls(
            config=NetworkConfig(
                backbone=PrismaticConfig(
                    **backbone,
                    conv_tower=ConvTowerConfig(**{**conv, "channels": tuple(conv["channels"])}),
                    prismatic_vision=PrismaticVisionConfig(**vit, dino=dino, siglip=siglip),
                ),
                head=HeadConfig(**found["config"]["head"]),
            ),
            vocabulary=Vocabulary.from_json(found["vocabulary"]),
            num_tokens=int(found["num_tokens"]),
            action_width=int(found["action_width"]),
            proprioception_width=int(found["proprioception_width"]),
        )


class PretrainHead(nn.Module):
    """The reader of the later action head, and two readouts that are thrown away after pre-training."""

    def __init__(self, spec: NetworkSpec, backbone: PrismaticBackbone) -> None:
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
        backbone = self.latent.backbone
        self.head = ActQueryHead(
            spec.config.head,
            state_width=backbone.width,
            map_channels=backbone.map_channels,
            action_width=spec.action_width,
            proprioception_width=spec.proprioception_width,
        )

    def forward(
        self, observation: ObservationBatch, codes: Tensor, blind: Tensor | None = None
    ) -> tuple[BackboneOutput, HeadOutput]:
        """Teacher-forced states and the head's chunk."""
        output = self.latent(observation, codes, blind)
        return output, self.head(output, observation.proprioception)

    def generate(self, observation: ObservationBatch) -> tuple[Tensor, HeadOutput]:
        """Codes [B, L], greedy, and the chunk behind them: what happens when the policy acts."""
        codes, output = self.latent.generate(observation)
        return codes, self.head(output, observation.proprioception)


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


def load_pretrained(network: PolicyNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Take over latent policy and reader of a pre-trained network; what is behind the reader stays new."""
    kept = {name: value for name, value in tensors.items() if name.startswith(("latent.", READER))}
    own = network.state_dict()
    wanted = {name for name in own if name.startswith(("latent.", READER))}
    differing = sorted(n for n in wanted | set(kept) if n not in own or n not in kept or own[n].shape != kept[n].shape)
    if differing:
        raise InputError(
            "pre-trained weights",
            expected="a network of the same sizes, words and codes",
            got=f"{len(differing)} weights that differ, the first {differing[0]!r}",
            remedy="Use the configuration and the vocabulary of the pre-training.",
        )
    network.load_state_dict({**own, **kept})


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
    backbone = PrismaticBackbone(spec.config.backbone, spec.vocabulary)
    return LatentPolicy(backbone, num_codes=spec.vocabulary.num_codes, num_tokens=spec.num_tokens)
