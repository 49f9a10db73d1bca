"""Low-rank adapters by peft: put in for fine-tuning, saved alone, merged for acting. Engineering."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cyclemimic.errors import InputError
from cyclemimic.policy.network import BACKBONE, VIEWS, PolicyNetwork
from cyclemimic.randomness import entropy_for
from cyclemimic.store.weights import load_tensors, save_tensors

HEAD = "head."


def adapted_layers(network: PolicyNetwork) -> list[str]:
    """Names of all linear and convolutional layers of the backbone, the output layer excepted, as is peft's habit."""
    rows = {BACKBONE + name for name in network.latent.backbone.vocabulary_rows}
    return [
        name
        for name, module in network.named_modules()
        if name.startswith(BACKBONE) and f"{name}.weight" not in rows and isinstance(module, nn.Linear | nn.Conv2d)
    ]


def apply_lora(network: PolicyNetwork, *, rank: int, alpha: float, seed: int, train_vocabulary: bool = False) -> None:
    """Freeze the backbone and put adapters into it, in place; the action head stays fully trained (paper, policy).

    The policy computes the same as before until the first update, since one factor of each adapter starts at zero.

    Args:
        network: what is adapted.
        rank: of the adapters.
        alpha: their weight is alpha / rank.
        seed: of their first weights.
        train_vocabulary: also train the rows of the tokens, which new words and action tokens need.
    """
    # Here and not above: importing it takes seconds, and only LoRA needs it.
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=adapted_layers(network), bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy_for(seed, 0, "lora-weights"))
        inject_adapter_in_model(config, network)  # freezes all but the adapters
    rows = {BACKBONE + name for name in network.latent.backbone.vocabulary_rows} if train_vocabulary else set()
    for name, parameter in network.named_parameters():
        if name.startswith(HEAD) or name == VIEWS or name in rows:
            parameter.requires_grad_(True)


def merge_lora(network: PolicyNetwork) -> None:
    """Add the adapters to the weights they adapt and take them out, in place: acting costs what it did before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())


def trained_tensors(network: PolicyNetwork) -> dict[str, Tensor]:
    """Those weights that training moves: with LoRA the adapters and the head, else all."""
    return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def save_adapters(path: Path, network: PolicyNetwork) -> None:
    """Write adapters and head alone; the backbone's own weights stay in the file they came from."""
    save_tensors(path, trained_tensors(network), {"kind": "adapters and head"})


def load_adapters(path: Path, network: PolicyNetwork) -> None:
    """Undo `save_adapters` into a network to which `apply_lora` was applied with the same rank.

    Raises:
        InputError: names or shapes differ.
    """
    tensors, _ = load_tensors(path)
    own: Mapping[str, Tensor] = trained_tensors(network)
    differing = sorted(
        n for n in set(own) | set(tensors) if n not in own or n not in tensors or own[n].shape != tensors[n].shape
    )
    if differing:
        raise InputError(
            path,
            expected="adapters of this network and rank",
            got=f"{len(differing)} weights that differ, the first {differing[0]!r}",
            remedy="Apply LoRA with the rank of the checkpoint first.",
        )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
