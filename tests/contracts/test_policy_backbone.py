"""What every policy Backbone promises. A new backbone joins by one line in BACKBONES."""

import dataclasses

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.policy.backbone import Tail
from cyclemimic.policy.lora import adapted_layers, apply_lora, merge_lora, trained_tensors
from cyclemimic.policy.network import BACKBONE, build_policy_network, build_pretrain_network
from tests.unit.policy_small import PX, SLOW, WORDS, K, L, observe, some_codes, spec

# name -> kind and language model
BACKBONES = {
    "prismatic, llama": {"backbone": "prismatic"},
    "prismatic, qwen2": {"backbone": "prismatic", "language": "qwen2"},
    "example": {"backbone": "cyclemimic_example.backbone:RecurrentBackbone"},
}
BATCH, BINS_TOKENS = 4, SLOW.chunk_steps * SLOW.action_width


def network_of(name, kind="act_query"):
    return build_policy_network(spec(kind, **BACKBONES[name]), seed=1).eval()


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


@pytest.fixture
def backbone(name):
    return network_of(name).latent.backbone


def changed(batch, **changes):
    return dataclasses.replace(batch, **changes)


def greedy(backbone, first_id, count):
    return lambda state: backbone.token_logits(state)[..., first_id : first_id + count].argmax(-1)


def test_states_have_its_width_and_the_map_its_channels(backbone):
    output = backbone(observe(), some_codes())
    assert output.slots.shape == output.latents.shape == (BATCH, L, backbone.width)
    assert output.act.shape == (BATCH, backbone.width)
    assert output.visual.tokens.shape[0] == BATCH and output.visual.tokens.shape[2] == backbone.width
    assert output.visual.map.shape[:2] == (BATCH, backbone.map_channels) and output.visual.map.ndim == 4
    assert output.bins is None and output.bin_logits is None and output.extra == ()


def test_logits_are_over_the_whole_vocabulary_and_its_rows_have_names(backbone):
    states = torch.randn(BATCH, L, backbone.width)
    assert backbone.token_logits(states).shape == (BATCH, L, len(WORDS))
    weights = dict(backbone.named_parameters())
    assert backbone.vocabulary_rows
    assert all(len(weights[row]) == len(WORDS) for row in backbone.vocabulary_rows)
    tall = {name for name, weight in weights.items() if weight.ndim == 2 and len(weight) == len(WORDS)}
    assert tall == set(backbone.vocabulary_rows), "every weight with a row per token is named"


def test_a_state_has_not_seen_the_token_that_it_predicts_nor_those_behind(backbone):
    codes = some_codes()
    for place in range(L):
        other = codes.clone()
        other[:, place] = (other[:, place] + 1) % K
        one, two = backbone(observe(), codes), backbone(observe(), other)
        torch.testing.assert_close(one.slots[:, : place + 1], two.slots[:, : place + 1], atol=1e-6, rtol=0)
        assert not torch.allclose(one.latents[:, place], two.latents[:, place])
        assert not torch.allclose(one.act, two.act)
        if place + 1 < L:
            assert not torch.allclose(one.slots[:, place + 1], two.slots[:, place + 1])


def test_where_blind_nothing_behind_the_latent_tokens_sees_them(backbone):
    blind = torch.tensor([True, False, True, False])
    one, two = (backbone(observe(), some_codes(seed=seed), blind) for seed in (0, 5))
    torch.testing.assert_close(one.act[blind], two.act[blind], atol=1e-6, rtol=0)
    assert not torch.allclose(one.act[~blind], two.act[~blind])


def test_picture_and_sentence_reach_every_state(backbone):
    seen, codes = observe(), some_codes()
    base = backbone(seen, codes)
    blind = torch.ones(BATCH, dtype=torch.bool)
    for other in (changed(seen, images=1 - seen.images), changed(seen, words=seen.words.flip(0))):
        found = backbone(other, codes)
        for part in ("slots", "latents", "act"):
            assert not torch.allclose(getattr(found, part), getattr(base, part)), part
        assert not torch.allclose(backbone(other, codes, blind).act, backbone(seen, codes, blind).act)


def test_padding_behind_the_words_changes_nothing(backbone):
    seen, codes = observe(), some_codes()
    longer = changed(
        seen,
        words=torch.cat([seen.words, torch.full((BATCH, 3), 5)], 1),
        word_mask=torch.cat([seen.word_mask, torch.zeros(BATCH, 3, dtype=torch.bool)], 1),
    )
    one, two = backbone(seen, codes), backbone(longer, codes)
    for part in ("slots", "latents", "act"):
        torch.testing.assert_close(getattr(one, part), getattr(two, part), atol=1e-5, rtol=0)


def test_one_row_alone_is_seen_as_in_company(backbone):
    seen, codes = observe(), some_codes()
    alone = changed(
        seen,
        images=seen.images[:1],
        words=seen.words[:1],
        word_mask=seen.word_mask[:1],
        proprioception=seen.proprioception[:1],
        body=seen.body[:1],
    )
    one, many = backbone(alone, codes[:1]), backbone(seen, codes)
    torch.testing.assert_close(one.act, many.act[:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(one.slots, many.slots[:1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_token_by_token_it_says_what_it_says_when_forced(backbone):
    choose = greedy(backbone, WORDS.first_latent_id, K)
    codes, said = backbone.decode(observe(), L, choose)
    forced = backbone(observe(), codes)
    assert codes.shape == (BATCH, L) and torch.equal(choose(forced.slots), codes)
    for part in ("slots", "latents", "act"):
        torch.testing.assert_close(getattr(said, part), getattr(forced, part), atol=1e-5, rtol=0)


@torch.no_grad()
def test_action_tokens_follow_act_each_seeing_those_before(name):
    network = network_of(name, "bins")
    backbone, vocabulary = network.latent.backbone, network.spec.vocabulary
    latent, bins = (
        greedy(backbone, vocabulary.first_latent_id, K),
        greedy(backbone, vocabulary.first_bin_id, vocabulary.num_bins),
    )
    codes, said = backbone.decode(observe(), L, latent, num_bins=BINS_TOKENS, choose_bin=bins)
    forced = backbone(observe(), codes, None, Tail(bins=said.bins))
    first = vocabulary.first_bin_id
    assert forced.bin_logits.shape == (BATCH, BINS_TOKENS, len(vocabulary))
    own = forced.bin_logits[..., first : first + vocabulary.num_bins]
    assert torch.equal(own.argmax(-1), said.bins) and torch.equal(forced.bins, said.bins)
    other = said.bins.clone()
    other[:, 2] = (other[:, 2] + 1) % vocabulary.num_bins
    found = backbone(observe(), codes, None, Tail(bins=other)).bin_logits
    torch.testing.assert_close(found[:, :3], forced.bin_logits[:, :3], atol=1e-5, rtol=0)
    assert not torch.allclose(found[:, 3], forced.bin_logits[:, 3])


@torch.no_grad()
def test_what_a_head_adds_to_act_moves_act_alone(backbone):
    shift = torch.randn(BATCH, backbone.width)
    one, two = backbone(observe(), some_codes()), backbone(observe(), some_codes(), None, Tail(shift=shift))
    assert torch.equal(one.latents, two.latents) and not torch.allclose(one.act, two.act)
    choose = greedy(backbone, WORDS.first_latent_id, K)
    codes, said = backbone.decode(observe(), L, choose, shift=shift)
    torch.testing.assert_close(backbone(observe(), codes, None, Tail(shift=shift)).act, said.act, atol=1e-5, rtol=0)


def test_a_further_camera_is_seen_or_refused_when_it_is_built(name):
    try:
        network = build_policy_network(spec(cameras=1, **BACKBONES[name]), seed=1).eval()
    except InputError as error:
        assert error.remedy
        return
    seen = observe(cameras=1)
    other = changed(seen, extra_images=(torch.zeros(BATCH, 3, PX, PX),))
    one, two = (network.latent.backbone(x, some_codes()) for x in (seen, other))
    assert len(one.extra) == 1 and not torch.allclose(one.act, two.act)


def test_the_gradient_of_pre_training_reaches_every_weight(name):
    network = build_pretrain_network(dataclasses.replace(spec(**BACKBONES[name]), bodies=()), seed=1)
    output, logits, end = network(observe(), some_codes())
    loss = network.latent.latent_loss(output.slots, some_codes()) + logits.square().mean() + end.square().mean()
    loss.backward()
    dead = [n for n, p in network.latent.backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_lora_has_layers_to_adapt_and_leaves_the_vocabulary_to_whoever_asks(name):
    network = network_of(name)
    before = network(observe(), some_codes())[1].actions
    rows = {BACKBONE + row for row in network.latent.backbone.vocabulary_rows}
    layers = adapted_layers(network)
    assert layers and not {f"{layer}.weight" for layer in layers} & rows
    apply_lora(network, rank=2, alpha=2.0, seed=0, train_vocabulary=True)
    torch.testing.assert_close(network(observe(), some_codes())[1].actions, before)
    assert rows <= set(trained_tensors(network))
    merge_lora(network)
    assert set(network.state_dict()) == set(network_of(name).state_dict())
