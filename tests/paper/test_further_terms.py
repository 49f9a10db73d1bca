"""Further terms: what each is on a case made by hand, whom it teaches, and that a weight of zero leaves nothing."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cyclemimic.tokenizer.ac3 import AC3Config, run_cycle
from cyclemimic.tokenizer.decoders import Decoded
from cyclemimic.tokenizer.further_terms import (
    BodyClassifier,
    FlowHead,
    Helpers,
    Origin,
    SlowReader,
    action_loss,
    adversary_loss,
    composition_loss,
    flow_loss,
    motion_weight,
    reversal_loss,
)
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp, reconstruction_loss, tokenizer_terms
from cyclemimic.tokenizer.quantizer import whitened
from tests.paper.small import (
    BATCH,
    CODE_WIDTH,
    CODES,
    SIZE_PX,
    TOKENS,
    has_gradient,
    picture,
    small_batch,
    small_buffer,
    small_critic,
    small_tokenizer,
)

ON = Ramp(weight=0.5)
SIZES = {"num_tokens": TOKENS, "code_width": CODE_WIDTH}
NAMES = ("composition", "reversal", "flow", "reader", "adversary", "actions")


def seed(number=0):
    return torch.Generator().manual_seed(number)


def whole_batch():
    """Pairs with everything that any term wants."""
    batch = small_batch()
    return replace(
        batch,
        latest=(batch.later + 0.2 * torch.rand(batch.now.shape, generator=seed(1))).clamp(0, 1),
        flow=0.1 * torch.randn(BATCH, 2, 4, 4, generator=seed(2)),
        action=torch.randn(BATCH, 2, generator=seed(3)),
        action_known=torch.tensor([True, False, True, False, False, True]),
    )


def helpers_for(tokenizer):
    torch.manual_seed(2)
    return Helpers(
        flow=FlowHead(**SIZES),
        adversary=BodyClassifier(**SIZES, num_bodies=3),
        actions=nn.Linear(TOKENS * CODE_WIDTH, 2),
        origin=Origin(**SIZES),
        reader=SlowReader(tokenizer, 0.9),
    )


def evaluate(decoder="motion", **weights):
    tokenizer = small_tokenizer(decoder=decoder)
    helpers = helpers_for(tokenizer)
    config = ObjectiveConfig(cycle=ON, realism=ON, **weights)
    terms = tokenizer_terms(tokenizer, small_critic(), small_buffer(), whole_batch(), config, 0.5, seed(), helpers)
    return tokenizer, helpers, terms


# The list of terms


@pytest.mark.parametrize("name", NAMES)
def test_a_term_is_there_if_and_only_if_its_weight_is(name):
    _, _, terms = evaluate(**{name: 0.25})
    assert terms.weights[name] == 0.25
    assert name in terms.losses and torch.isfinite(terms.losses[name])
    others = set(NAMES) - {name}
    assert not others & set(terms.losses) and all(terms.weights[other] == 0 for other in others)
    _, _, without = evaluate()
    assert name not in without.losses
    torch.testing.assert_close(terms.total, without.total + 0.25 * terms.losses[name])


def test_every_weight_of_the_configuration_has_a_term():
    no_terms = {"reader_decay": "of the slow copy", "motion_weight": "within the reconstruction"}
    numbers = {f.name for f in fields(ObjectiveConfig) if f.type == "float"} - set(no_terms)
    config = ObjectiveConfig(cycle=ON, realism=ON, **dict.fromkeys(numbers, 0.5))
    assert numbers | {"cycle", "discriminator"} == set(config.weights(0.5))
    _, _, terms = evaluate(**dict.fromkeys(numbers, 0.5))
    assert set(terms.losses) == set(config.weights(0.5))


def test_helpers_that_learn_are_those_that_are_there():
    tokenizer = small_tokenizer()
    assert list(helpers_for(tokenizer).trained()) == ["flow", "adversary", "actions", "origin"]
    assert not list(Helpers().trained())


# Composition and reversal


def additive(tokenizer, monkeypatch, disturb=lambda said: said):
    """E that says how far each of the first pixels moved; `disturb` may spoil what it says."""
    count = TOKENS * CODE_WIDTH

    def read(stream, now, later, words=None):
        moved = (later.frames - now.frames).flatten(1)[:, :count].view(-1, TOKENS, CODE_WIDTH)
        return disturb(moved)

    monkeypatch.setattr(tokenizer, "read", read)


def losses_of_sums(tokenizer, batch, still=None):
    """Both terms; `still` is what E says of no motion, where the origin knows it."""
    now, later, latest = (tokenizer.see(f) for f in (batch.now, batch.later, batch.latest))
    stream = tokenizer.watch(now)
    said, origin = tokenizer.read(stream, now, later), Origin(**SIZES)
    if still is not None:
        with torch.no_grad():
            origin.place.copy_(whitened(torch.full_like(said, still), said)[0])
    return (
        composition_loss(tokenizer, origin, said, stream, now, later, latest),
        reversal_loss(tokenizer, origin, said, now, later),
    )


@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_an_additive_encoder_pays_nothing_whatever_it_says_of_no_motion(monkeypatch, constant):
    tokenizer = small_tokenizer()
    additive(tokenizer, monkeypatch, lambda said: said + constant)
    for loss in losses_of_sums(tokenizer, whole_batch(), still=constant):
        assert loss < 1e-9
    for loss in losses_of_sums(tokenizer, whole_batch()):  # the mean motion is not none
        assert loss > 0.05


@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_nothing_is_gained_by_saying_everything_smaller(monkeypatch, scale):
    """Neither the value of the terms nor their gradient says anything about the size of what E puts out."""
    tokenizer, grow = small_tokenizer(), torch.tensor(scale, requires_grad=True)
    book = tokenizer.quantizer
    additive(tokenizer, monkeypatch, lambda said: 3 * (said + book.look_up(book.distances(said).argmin(-1))))
    plain = losses_of_sums(tokenizer, whole_batch())
    spoken = tokenizer.read
    monkeypatch.setattr(tokenizer, "read", lambda *scenes: spoken(*scenes) * grow)
    for before, after in zip(plain, losses_of_sums(tokenizer, whole_batch()), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-2, atol=0)
        (gradient,) = torch.autograd.grad(after * scale, grow, retain_graph=True)
        assert gradient.abs() < 0.01 * before


def test_a_meaning_that_is_permuted_pays(monkeypatch):
    """Every motion is called by another motion's vector: D could learn that, sums cannot."""
    tokenizer = small_tokenizer()
    book, other = tokenizer.quantizer, torch.randperm(CODES, generator=seed())
    additive(tokenizer, monkeypatch, lambda said: book.look_up(other[book.distances(said).argmin(-1)]))
    for loss in losses_of_sums(tokenizer, whole_batch()):
        assert loss > 0.05


@pytest.mark.parametrize("name", ["composition", "reversal"])
def test_sums_teach_the_encoder_and_the_origin_alone(name):
    tokenizer, helpers, terms = evaluate(**{name: 1.0})
    terms.losses[name].backward()
    assert has_gradient(tokenizer.encoder) and has_gradient(helpers.origin)
    assert not has_gradient(tokenizer.decoder, helpers.flow, helpers.adversary, helpers.actions)


def test_sums_hear_the_words_that_the_encoder_hears():
    tokenizer = small_tokenizer(decoder="pixel", words=True, word_hashes=7)
    config = ObjectiveConfig(objective="genie", composition=1.0, reversal=1.0)
    helpers = Helpers(origin=Origin(**SIZES))
    batches = [replace(whole_batch(), words=torch.full((BATCH, 3), word)) for word in (0, 5)]
    found = [tokenizer_terms(tokenizer, None, None, b, config, 0.0, seed(), helpers).losses for b in batches]
    grad = torch.autograd.grad(found[1]["composition"], tokenizer.words.weight, retain_graph=True)[0]
    assert grad[5].abs().sum() > 0
    assert found[0]["reversal"] != found[1]["reversal"]


# Flow


def test_flow_of_one_is_nothing_moves_and_of_zero_is_exact():
    batch = whole_batch()
    vectors, painted = torch.zeros(BATCH, TOKENS, CODE_WIDTH), torch.zeros(BATCH)
    exact = F.interpolate(batch.flow, scale_factor=SIZE_PX / 4)

    def loss(flow):
        return flow_loss(Decoded(scene=picture(batch.now), painted=painted, flow=flow), batch, vectors, None)

    torch.testing.assert_close(loss(exact * 0), torch.tensor(1.0))
    torch.testing.assert_close(loss(exact * 0.25), torch.tensor(0.75))
    assert loss(exact) < 1e-6


def test_flow_of_the_decoder_that_has_one_and_of_the_head_for_others():
    tokenizer, helpers, terms = evaluate("motion", flow=1.0)
    terms.losses["flow"].backward()
    assert has_gradient(tokenizer.decoder) and has_gradient(tokenizer.encoder) and not has_gradient(helpers.flow)
    tokenizer, helpers, terms = evaluate("pixel", flow=1.0)
    terms.losses["flow"].backward()
    assert has_gradient(helpers.flow) and has_gradient(tokenizer.encoder) and not has_gradient(tokenizer.decoder)


# Motion


def test_motion_counts_one_on_still_places_and_more_where_things_move():
    now = torch.full((1, 3, SIZE_PX, SIZE_PX), 0.5)
    later = now.clone()
    later[:, 1, :5, :5] += 0.5
    weight = motion_weight(now, later, 3.0)
    assert weight.shape == (1, 1, SIZE_PX, SIZE_PX)
    torch.testing.assert_close(weight[0, 0, 8:, 8:], torch.ones(SIZE_PX - 8, SIZE_PX - 8))
    torch.testing.assert_close(weight[0, 0, 2, 2], torch.tensor(4.0))
    assert 1 < weight[0, 0, 5, 2] < 4


def test_motion_weight_shifts_the_reconstruction_to_what_moves_and_keeps_copying_at_one():
    now = torch.rand(2, 3, SIZE_PX, SIZE_PX, generator=seed())
    later = now.clone()
    later[..., :5, :5] = 1 - later[..., :5, :5]
    noisy = later + 0.1 * torch.randn(now.shape, generator=seed(1))
    torch.testing.assert_close(
        reconstruction_loss(picture(now), picture(now), picture(later), strength=5.0), torch.tensor(1.0)
    )
    spoilt = [reconstruction_loss(picture(noisy), picture(now), picture(later), strength=s) for s in (0.0, 5.0)]
    assert spoilt[1] < spoilt[0]  # most of the noise lies where nothing moves


# The slow reader


def test_the_reader_teaches_the_decoder_alone():
    tokenizer, helpers, terms = evaluate(reader=1.0)
    terms.losses["reader"].backward()
    assert has_gradient(tokenizer.decoder)
    parts = (tokenizer.encoder, tokenizer.backbone, tokenizer.change, helpers.reader.reader)
    assert not has_gradient(*parts)
    assert not any(p.requires_grad for p in helpers.reader.reader.parameters())


def test_at_first_the_reader_reads_as_the_encoder_does():
    tokenizer = small_tokenizer()
    reader, scene = SlowReader(tokenizer, 0.9), tokenizer.see(small_batch().now)
    drawn = torch.randint(CODES, (BATCH, TOKENS), generator=seed())
    config = AC3Config(noise=0.0, blur=False)
    cycle = run_cycle(tokenizer, scene, tokenizer.watch(scene), drawn, config, seed())
    torch.testing.assert_close(reader.loss(cycle, drawn, config), cycle.loss)


def test_the_reader_follows_slowly_and_restarts_at_once():
    tokenizer = small_tokenizer()
    reader = SlowReader(tokenizer, 0.75)
    old = tokenizer.encoder.out.weight.detach().clone()
    with torch.no_grad():
        for value in tokenizer.parameters():
            value.add_(1.0)
    tokenizer.quantizer.unused_steps.fill_(3)
    assert torch.equal(reader.reader.encoder.out.weight, old)
    reader.follow(tokenizer)
    torch.testing.assert_close(reader.reader.encoder.out.weight, old + 0.25)
    assert torch.equal(reader.reader.quantizer.unused_steps, tokenizer.quantizer.unused_steps)
    reader.restart(tokenizer)
    assert torch.equal(reader.reader.encoder.out.weight, tokenizer.encoder.out.weight)
    assert not [name for name in reader.reader.own_state() if name.startswith("decoder.")]


def test_without_a_cycle_there_is_nothing_to_read():
    config = ObjectiveConfig(cycle=Ramp(weight=0.5, start=0.5), reader=0.3)
    assert config.weights(0.4)["reader"] == 0 and config.weights(0.6)["reader"] == 0.3
    assert replace(config, objective="genie").weights(0.6)["reader"] == 0


# The adversary


def test_the_classifier_learns_the_body_and_the_encoder_unlearns_it():
    torch.manual_seed(0)
    classifier, body = BodyClassifier(**SIZES, num_bodies=3), torch.arange(BATCH) % 3
    embedding = torch.randn(BATCH, TOKENS, CODE_WIDTH, requires_grad=True)
    loss = adversary_loss(classifier, embedding, body)
    torch.testing.assert_close(loss, F.cross_entropy(classifier.layers(embedding.flatten(1)), body))
    loss.backward()
    straight = torch.autograd.grad(F.cross_entropy(classifier.layers(embedding.flatten(1)), body), embedding)[0]
    torch.testing.assert_close(embedding.grad, -straight)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter -= 0.1 * parameter.grad
    assert adversary_loss(classifier, embedding, body) < loss


def test_the_adversary_reaches_the_encoder_and_not_the_decoder():
    tokenizer, helpers, terms = evaluate(adversary=1.0)
    terms.losses["adversary"].backward()
    assert has_gradient(tokenizer.encoder) and has_gradient(helpers.adversary)
    assert not has_gradient(tokenizer.decoder)


# True actions


def test_only_pairs_whose_action_is_known_count():
    torch.manual_seed(0)
    batch, readout = whole_batch(), nn.Linear(TOKENS * CODE_WIDTH, 2)
    embedding = torch.randn(BATCH, TOKENS, CODE_WIDTH, requires_grad=True)
    loss = action_loss(readout, embedding, batch)
    known = batch.action_known
    expected = (readout(embedding.flatten(1)) - batch.action)[known].square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert torch.equal(embedding.grad.abs().sum((1, 2)) > 0, known)
    elsewhere = torch.where(known[:, None], batch.action, 1e3)
    torch.testing.assert_close(action_loss(readout, embedding, replace(batch, action=elsewhere)), loss)


def test_a_batch_without_known_actions_pays_nothing():
    batch = replace(whole_batch(), action_known=torch.zeros(BATCH, dtype=torch.bool))
    readout = nn.Linear(TOKENS * CODE_WIDTH, 2)
    loss = action_loss(readout, torch.randn(BATCH, TOKENS, CODE_WIDTH), batch)
    loss.backward()
    assert loss == 0 and readout.weight.grad.abs().sum() == 0


def test_true_actions_teach_the_encoder_and_the_readout():
    tokenizer, helpers, terms = evaluate(actions=1.0)
    terms.losses["actions"].backward()
    assert has_gradient(tokenizer.encoder) and has_gradient(helpers.actions)
    assert not has_gradient(tokenizer.decoder)
