"""Rows of the tables in docs/log.md, as recipes: `--recipe cyclemimic.recipes.ablations:NAME`."""

from __future__ import annotations

from dataclasses import replace

from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.tiny import tiny


def codes_only() -> Recipe:
    """Pre-training on latent actions, without the guess of where a clip ends."""
    recipe = tiny()
    return replace(recipe, pretrain=replace(recipe.pretrain, hindsight_weight=0.0))


def end_only() -> Recipe:
    """Pre-training on where a clip ends, without latent actions."""
    recipe = tiny()
    return replace(recipe, pretrain=replace(recipe.pretrain, latent_weight=0.0, readout_weight=0.0))


def ac3_all_gradient() -> Recipe:
    """AC3 whose cycle teaches D as much as E: weights .3 and .005, from the search for the default."""
    return _ac3(cycle=0.3, realism=0.005, share=1.0)


def ac3_gentle_cycle() -> Recipe:
    """The same with a weaker cycle and a stronger discriminator: .1 and .02."""
    return _ac3(cycle=0.1, realism=0.02, share=1.0)


def latent_decoding() -> Recipe:
    """Actions straight from the states at the latent tokens, without an ACT query."""
    return _head("latent")


def discrete_decoding() -> Recipe:
    """Actions as tokens of the language model, 256 bins for each number of a chunk.

    Without labels and pre-training it is a policy of discrete actions and nothing latent, as OpenVLA is.
    """
    return _head("bins")


def _head(kind: str) -> Recipe:
    recipe = tiny()
    network = recipe.finetune.network
    network = replace(network, head=replace(network.head, kind=kind))
    return replace(recipe, finetune=replace(recipe.finetune, network=network))


def _ac3(*, cycle: float, realism: float, share: float) -> Recipe:
    recipe = tiny()
    terms = recipe.ac3.objective
    terms = replace(
        terms,
        cycle=replace(terms.cycle, weight=cycle),
        realism=replace(terms.realism, weight=realism),
        ac3=replace(terms.ac3, gradient_into_decoder=share),
    )
    return replace(recipe, ac3=replace(recipe.ac3, objective=terms))
