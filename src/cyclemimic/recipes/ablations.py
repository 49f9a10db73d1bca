"""Rows of the tables in docs/log.md: what each changes in a recipe.

Any recipe takes changes: `--recipe tiny+term_flow+critic_pairs`. `--recipe cyclemimic.recipes.ablations:NAME` is one
change of the tiny recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cyclemimic.names import named
from cyclemimic.recipes.policy_changes import (
    codes_only,
    discrete_decoding,
    end_only,
    keypoint,
    latent_decoding,
    proprioception_dropout,
    state_target,
)
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.tiny import tiny
from cyclemimic.tokenizer.objective import Ramp


def ac3_all_gradient(base: Recipe | None = None) -> Recipe:
    """AC3 whose cycle teaches D as much as E: weights .3 and .005, from the search for the default."""
    return _ac3(base, cycle=0.3, realism=0.005, share=1.0)


def ac3_gentle_cycle(base: Recipe | None = None) -> Recipe:
    """The same with a weaker cycle and a stronger discriminator: .1 and .02."""
    return _ac3(base, cycle=0.1, realism=0.02, share=1.0)


def cycle_quarter(base: Recipe | None = None) -> Recipe:
    """A quarter of the cycle's weight: its gradient on E is of the size of reconstruction's, not many times larger."""
    return _cycle_weight(base, 1 / 4)


def cycle_tenth(base: Recipe | None = None) -> Recipe:
    """A tenth of the cycle's weight."""
    return _cycle_weight(base, 1 / 10)


def _cycle_weight(base: Recipe | None, share: float) -> Recipe:
    recipe = base or tiny()
    cycle = recipe.ac3.objective.cycle
    return _further(recipe, cycle=replace(cycle, weight=cycle.weight * share))


def _ac3(base: Recipe | None, *, cycle: float, realism: float, share: float) -> Recipe:
    recipe = base or tiny()
    terms = recipe.ac3.objective
    terms = replace(
        terms,
        cycle=replace(terms.cycle, weight=cycle),
        realism=replace(terms.realism, weight=realism),
        ac3=replace(terms.ac3, gradient_into_decoder=share),
    )
    return replace(recipe, ac3=replace(recipe.ac3, objective=terms))


def term_composition(base: Recipe | None = None) -> Recipe:
    """AC3 and z(a, b) + z(b, c) = z(a, c)."""
    return _further(base, composition=0.1)


def term_reversal(base: Recipe | None = None) -> Recipe:
    """AC3 and z(a, b) = -z(b, a)."""
    return _further(base, reversal=0.1)


def term_flow(base: Recipe | None = None) -> Recipe:
    """AC3 and optical flow as a target of D."""
    return _further(base, flow=0.1)


def term_motion(base: Recipe | None = None) -> Recipe:
    """AC3 whose reconstruction counts moving places up to twice."""
    return _further(base, motion_weight=1.0)


def term_reader(base: Recipe | None = None) -> Recipe:
    """AC3 and a slow copy of E that reads D's frames."""
    return _further(base, reader=0.1)


def term_adversary(base: Recipe | None = None) -> Recipe:
    """AC3 and an adversary that must not know the body."""
    return _further(base, adversary=0.05)


def term_actions(base: Recipe | None = None) -> Recipe:
    """AC3 and the true motion of a small share of the clips."""
    return _further(base, actions=0.1)


def ac3_other_body(base: Recipe | None = None) -> Recipe:
    """AC3 that acts latent actions out on another body than the one they were seen on."""
    return _lever(base, other_body=True)


def ac3_inverse_frequency(base: Recipe | None = None) -> Recipe:
    """AC3 that draws rare latent actions as often as common ones."""
    return _lever(base, inverse_frequency=True)


def ac3_trim(base: Recipe | None = None) -> Recipe:
    """AC3 without the worst fifth of each batch: actions that cannot happen in o_c."""
    return _lever(base, trim=0.2)


def critic_none(base: Recipe | None = None) -> Recipe:
    """AC3 without a discriminator."""
    return _critic(base, kind="none")


def critic_local(base: Recipe | None = None) -> Recipe:
    """AC3 whose discriminator judges patches alone."""
    return _critic(base, kind="local")


def critic_pairs(base: Recipe | None = None) -> Recipe:
    """AC3 whose discriminator sees the frame now beside the later one."""
    return _critic(base, judges_pairs=True)


def paper_literal(base: Recipe | None = None) -> Recipe:
    """The paper as it is printed, in one run from random weights: nothing of ours guards against leaks or collapse.

    D paints, four tokens, E sees no change beside the frames, L_C reaches D whole and from the first step, the printed
    adversarial losses, no noise, no blur, no entropy bonus. The paper gives no weights; they are the recipe's.
    """
    recipe = base or tiny()
    sizes = recipe.trunk.tokenizer
    recipe = _tokenizer(recipe, decoder="pixel", change="none", encoder=replace(sizes.encoder, num_tokens=4))
    terms = recipe.ac3.objective
    terms = replace(
        terms,
        cycle=Ramp(weight=terms.cycle.weight),
        realism=Ramp(weight=terms.realism.weight),
        ac3=replace(terms.ac3, gradient_into_decoder=1.0, noise=0.0, blur=False),
        adversarial="printed",
        entropy=0.0,
        painted=0.0,
    )
    steps = recipe.trunk.steps + recipe.ac3.steps
    genie = replace(recipe.genie.objective, entropy=0.0, painted=0.0)
    return replace(
        recipe,
        trunk=replace(recipe.trunk, steps=0),
        genie=replace(recipe.genie, steps=steps, objective=genie),
        ac3=replace(recipe.ac3, steps=steps, objective=terms),
    )


def buffer_1(base: Recipe | None = None) -> Recipe:
    """AC3 that draws from the codes of this batch alone."""
    return _buffer(base, 1)


def buffer_16(base: Recipe | None = None) -> Recipe:
    """AC3 that draws from the codes of the last sixteen batches."""
    return _buffer(base, 16)


def critic_shallow(base: Recipe | None = None) -> Recipe:
    """AC3 whose discriminator is half as deep as E."""
    recipe = base or tiny()
    return _critic(recipe, blocks=max(1, recipe.ac3.tokenizer.encoder.blocks // 2))


def critic_deep(base: Recipe | None = None) -> Recipe:
    """AC3 whose discriminator is half as deep again as E."""
    recipe = base or tiny()
    return _critic(recipe, blocks=(recipe.ac3.tokenizer.encoder.blocks * 3 + 1) // 2)


def decoder_pixel(base: Recipe | None = None) -> Recipe:
    """A decoder that paints every pixel, as the paper's."""
    return _tokenizer(base, decoder="pixel")


def decoder_feature(base: Recipe | None = None) -> Recipe:
    """A decoder that predicts features, which must be frozen: give a `--backbone`."""
    recipe = _tokenizer(base, decoder="feature", change="features")
    parts = {name: getattr(recipe, name) for name in ("trunk", "genie", "ac3")}
    # What is painted is a share of pixels; there are none.
    plain = {name: replace(part, objective=replace(part.objective, painted=0.0)) for name, part in parts.items()}
    return replace(recipe, **plain)


def decoder_half(base: Recipe | None = None) -> Recipe:
    """Every decoder half as wide."""
    return _decoder_width(base, 0.5)


def decoder_double(base: Recipe | None = None) -> Recipe:
    """Every decoder twice as wide."""
    return _decoder_width(base, 2.0)


def readout_difference(base: Recipe | None = None) -> Recipe:
    """The latent action is the difference of both frames' action tokens, as LAPA's; everything else stays."""
    recipe = base or tiny()
    return _tokenizer(recipe, encoder=replace(recipe.trunk.tokenizer.encoder, readout="difference"))


def change_alone(base: Recipe | None = None) -> Recipe:
    """Of the later frame E sees what changed alone."""
    recipe = base or tiny()
    return _tokenizer(recipe, encoder=replace(recipe.trunk.tokenizer.encoder, later_patches="change"))


def change_matches(base: Recipe | None = None) -> Recipe:
    """E sees how places of both frames match; `tiny` does so anyhow."""
    return _tokenizer(base, change="matches")


def change_pixels(base: Recipe | None = None) -> Recipe:
    """E sees the change of pixels, in place of how places of both frames match."""
    return _tokenizer(base, change="pixels")


def commitment_none(base: Recipe | None = None) -> Recipe:
    """Embeddings are not pulled to their vectors, as in LAPA; trunk and branches alike."""
    recipe = base or tiny()
    parts = {name: getattr(recipe, name) for name in ("trunk", "genie", "ac3")}
    free = {name: replace(part, objective=replace(part.objective, commitment=0.0)) for name, part in parts.items()}
    return replace(recipe, **free)


def quantizer_nsvq(base: Recipe | None = None) -> Recipe:
    """Noise in place of the straight-through estimator, as LAPA's; everything else stays."""
    recipe = base or tiny()
    return _tokenizer(recipe, quantizer=replace(recipe.trunk.tokenizer.quantizer, kind="nsvq"))


def codes_half(base: Recipe | None = None) -> Recipe:
    """Half as many codes."""
    return _codes(base, 0.5)


def codes_double(base: Recipe | None = None) -> Recipe:
    """Twice as many codes."""
    return _codes(base, 2.0)


def tokens_1(base: Recipe | None = None) -> Recipe:
    """A latent action of one token."""
    return _tokens(base, 1)


def tokens_4(base: Recipe | None = None) -> Recipe:
    """A latent action of four tokens, as the paper's."""
    return _tokens(base, 4)


def route_none(base: Recipe | None = None) -> Recipe:
    """L_C teaches E alone."""
    return _lever(base, gradient_into_decoder=0.0)


def route_tenth(base: Recipe | None = None) -> Recipe:
    """A tenth of L_C's gradient reaches D."""
    return _lever(base, gradient_into_decoder=0.1)


def route_whole(base: Recipe | None = None) -> Recipe:
    """All of L_C's gradient reaches D."""
    return _lever(base, gradient_into_decoder=1.0)


def _further(base: Recipe | None, **changes: Any) -> Recipe:
    recipe = base or tiny()
    return replace(recipe, ac3=replace(recipe.ac3, objective=replace(recipe.ac3.objective, **changes)))


def _lever(base: Recipe | None, **changes: Any) -> Recipe:
    recipe = base or tiny()
    return _further(recipe, ac3=replace(recipe.ac3.objective.ac3, **changes))


def _critic(base: Recipe | None, **changes: Any) -> Recipe:
    recipe = base or tiny()
    return replace(recipe, ac3=replace(recipe.ac3, discriminator=replace(recipe.ac3.discriminator, **changes)))


def _buffer(base: Recipe | None, batches: int) -> Recipe:
    recipe = base or tiny()
    return replace(recipe, ac3=replace(recipe.ac3, buffer_batches=batches))


def _tokenizer(base: Recipe | None, **changes: Any) -> Recipe:
    """The tokenizer's sizes, of trunk and branches alike: a branch takes its trunk's weights."""
    recipe = base or tiny()

    parts = {name: getattr(recipe, name) for name in ("trunk", "genie", "ac3")}
    return replace(
        recipe, **{name: replace(part, tokenizer=replace(part.tokenizer, **changes)) for name, part in parts.items()}
    )


def _decoder_width(base: Recipe | None, factor: float) -> Recipe:
    recipe = base or tiny()
    sizes = recipe.trunk.tokenizer

    def wide(width: int, heads: int) -> int:
        return max(1, round(width * factor / heads)) * heads

    return _tokenizer(
        recipe,
        motion=replace(sizes.motion, width=wide(sizes.motion.width, 1)),
        pixel=replace(sizes.pixel, width=wide(sizes.pixel.width, sizes.pixel.heads)),
        feature=replace(sizes.feature, width=wide(sizes.feature.width, sizes.feature.heads)),
    )


def _codes(base: Recipe | None, factor: float) -> Recipe:
    recipe = base or tiny()
    quantizer = recipe.trunk.tokenizer.quantizer
    return _tokenizer(recipe, quantizer=replace(quantizer, num_codes=max(2, round(quantizer.num_codes * factor))))


def _tokens(base: Recipe | None, num_tokens: int) -> Recipe:
    recipe = base or tiny()
    return _tokenizer(recipe, encoder=replace(recipe.trunk.tokenizer.encoder, num_tokens=num_tokens))


Change = Callable[[Recipe | None], Recipe]
CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        codes_only,
        end_only,
        state_target,
        keypoint,
        proprioception_dropout,
        ac3_all_gradient,
        ac3_gentle_cycle,
        cycle_quarter,
        cycle_tenth,
        latent_decoding,
        discrete_decoding,
        term_composition,
        term_reversal,
        term_flow,
        term_motion,
        term_reader,
        term_adversary,
        term_actions,
        ac3_other_body,
        ac3_inverse_frequency,
        ac3_trim,
        critic_none,
        critic_local,
        critic_pairs,
        paper_literal,
        buffer_1,
        buffer_16,
        critic_shallow,
        critic_deep,
        decoder_pixel,
        decoder_feature,
        decoder_half,
        decoder_double,
        readout_difference,
        change_alone,
        change_matches,
        change_pixels,
        commitment_none,
        quantizer_nsvq,
        codes_half,
        codes_double,
        tokens_1,
        tokens_4,
        route_none,
        route_tenth,
        route_whole,
    )
}


def changed(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with changes by name, one after the other. InputError for an unknown one."""
    for name in names:
        recipe = named("--recipe", name, CHANGES)(recipe)
    return recipe
