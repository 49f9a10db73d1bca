"""Changes of a policy: what pre-training and fine-tuning learn, and what reads an action off the network."""

from __future__ import annotations

from dataclasses import replace

from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.tiny import tiny


def codes_only(base: Recipe | None = None) -> Recipe:
    """Pre-training on latent actions, without the guess of where a clip ends."""
    recipe = base or tiny()
    return replace(recipe, pretrain=replace(recipe.pretrain, hindsight_weight=0.0))


def end_only(base: Recipe | None = None) -> Recipe:
    """Pre-training on where a clip ends, without latent actions."""
    recipe = base or tiny()
    return replace(recipe, pretrain=replace(recipe.pretrain, latent_weight=0.0, readout_weight=0.0))


def state_target(base: Recipe | None = None) -> Recipe:
    """Pre-training also guesses where in the picture things move now: what of the robot's state a video shows."""
    recipe = base or tiny()
    return replace(recipe, pretrain=replace(recipe.pretrain, moving_weight=1.0))


def keypoint(base: Recipe | None = None) -> Recipe:
    """That guess is an input of the decoder, alone in pre-training, beside the robot's state in fine-tuning.

    Fine-tuning goes on to learn it, from the demonstrations' video: their body is in no other.
    """
    recipe = state_target(base)
    networks = (stage.network for stage in (recipe.pretrain, recipe.finetune))
    first, second = (replace(network, head=replace(network.head, keypoint=True)) for network in networks)
    finetune = replace(recipe.finetune, network=second, moving_weight=1.0)
    return replace(recipe, pretrain=replace(recipe.pretrain, network=first), finetune=finetune)


def proprioception_dropout(base: Recipe | None = None) -> Recipe:
    """Fine-tuning hides the robot's state at half of the moments, so that the policy does not lean on it."""
    recipe = base or tiny()
    return replace(recipe, finetune=replace(recipe.finetune, proprioception_dropout=0.5))


def latent_decoding(base: Recipe | None = None) -> Recipe:
    """Actions straight from the states at the latent tokens, without an ACT query."""
    return _head(base, "latent")


def discrete_decoding(base: Recipe | None = None) -> Recipe:
    """Actions as tokens of the language model, 256 bins for each number of a chunk.

    Without labels and pre-training it is a policy of discrete actions and nothing latent, as OpenVLA is.
    """
    return _head(base, "bins")


def _head(base: Recipe | None, kind: str) -> Recipe:
    recipe = base or tiny()
    network = recipe.finetune.network
    network = replace(network, head=replace(network.head, kind=kind))
    return replace(recipe, finetune=replace(recipe.finetune, network=network))
