"""Rows of the tables in docs/log.md, as recipes: `--recipe cyclemimic.recipes.ablations:NAME`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


def term_composition() -> Recipe:
    """AC3 and z(a, b) + z(b, c) = z(a, c)."""
    return _further(composition=0.1)


def term_reversal() -> Recipe:
    """AC3 and z(a, b) = -z(b, a)."""
    return _further(reversal=0.1)


def term_flow() -> Recipe:
    """AC3 and optical flow as a target of D."""
    return _further(flow=0.1)


def term_motion() -> Recipe:
    """AC3 whose reconstruction counts moving places up to twice."""
    return _further(motion_weight=1.0)


def term_reader() -> Recipe:
    """AC3 and a slow copy of E that reads D's frames."""
    return _further(reader=0.1)


def term_adversary() -> Recipe:
    """AC3 and an adversary that must not know the body."""
    return _further(adversary=0.05)


def term_actions() -> Recipe:
    """AC3 and the true motion of a small share of the clips."""
    return _further(actions=0.1)


def ac3_other_body() -> Recipe:
    """AC3 that acts latent actions out on another body than the one they were seen on."""
    return _lever(other_body=True)


def ac3_inverse_frequency() -> Recipe:
    """AC3 that draws rare latent actions as often as common ones."""
    return _lever(inverse_frequency=True)


def ac3_trim() -> Recipe:
    """AC3 without the worst fifth of each batch: actions that cannot happen in o_c."""
    return _lever(trim=0.2)


def critic_none() -> Recipe:
    """AC3 without a discriminator."""
    return _critic(kind="none")


def critic_local() -> Recipe:
    """AC3 whose discriminator judges patches alone."""
    return _critic(kind="local")


def critic_pairs() -> Recipe:
    """AC3 whose discriminator sees the frame now beside the later one."""
    return _critic(judges_pairs=True)


def _further(**changes: Any) -> Recipe:
    recipe = tiny()
    return replace(recipe, ac3=replace(recipe.ac3, objective=replace(recipe.ac3.objective, **changes)))


def _lever(**changes: Any) -> Recipe:
    return _further(ac3=replace(tiny().ac3.objective.ac3, **changes))


def _critic(**changes: Any) -> Recipe:
    recipe = tiny()
    return replace(recipe, ac3=replace(recipe.ac3, discriminator=replace(recipe.ac3.discriminator, **changes)))
