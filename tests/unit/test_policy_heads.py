"""Heads behind one Protocol: what each reads, bins by hand, several bodies and cameras, parts from outside."""

import dataclasses

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import DemonstrationBatch
from cyclemimic.policy.action_heads import HeadConfig, action_loss, of_body
from cyclemimic.policy.lora import apply_lora, trained_tensors
from cyclemimic.policy.network import (
    build_policy_network,
    build_pretrain_network,
    load_pretrained,
    read_network,
    save_network,
)
from cyclemimic.policy.vocabulary import NUM_SPECIAL
from tests.unit.policy_small import BINS, BLIND, FAST, PX, SLOW, WORDS, K, L, observe, some_codes, spec

KINDS = ("act_query", "latent", "bins")
BODIES = (SLOW, FAST, BLIND)
HERE = "tests.unit.policy_small"


def demonstration(seen, actions, steps=None):
    mask = torch.ones(actions.shape[:2], dtype=torch.bool) if steps is None else steps
    return DemonstrationBatch(observation=seen, codes=some_codes(len(seen)), actions=actions, action_mask=mask)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_head_generates_what_it_says_when_forced(kind):
    network = build_policy_network(spec(kind), seed=1).eval()
    seen = observe()
    codes, said = network.generate(seen)
    assert said.actions.shape == (4, 2, 3)
    output, forced = network(seen, codes, None, said.actions)
    assert torch.equal(network.latent.code_logits(output.slots).argmax(-1), codes)
    torch.testing.assert_close(forced.actions, said.actions, atol=1e-5, rtol=0)
    assert torch.equal(network.generate(seen)[1].actions, said.actions)


@torch.no_grad()
def test_latent_head_differs_from_act_query_in_the_source_of_its_state_alone():
    act, latent = (build_policy_network(spec(kind), seed=1).eval() for kind in ("act_query", "latent"))
    one, other = act.state_dict(), latent.state_dict()
    assert {n: v.shape for n, v in one.items()} == {n: v.shape for n, v in other.items()}
    assert all(torch.equal(one[n], other[n]) for n in one)
    output, _ = act(observe(), some_codes())
    assert torch.equal(act.head.state(output), output.act)
    assert torch.equal(latent.head.state(output), output.latents.mean(1))
    moved = dataclasses.replace(output, act=output.act.flip(-1))
    assert torch.equal(latent.head(moved, observe()).actions, latent.head(output, observe()).actions)
    assert not torch.allclose(act.head(moved, observe()).actions, act.head(output, observe()).actions)


def test_bins_are_equal_parts_between_minus_one_and_one():
    head = build_policy_network(spec("bins"), seed=1).head
    middles = (torch.arange(BINS) + 0.5) / BINS * 2 - 1
    for first in range(0, BINS - 5):
        actions = middles[first : first + 6].view(1, 2, 3)
        assert head.tokens(actions, None).tolist() == [list(range(first, first + 6))]
    outside = torch.tensor([[[-9.0, -1.0, -0.999], [0.0, 1.0, 9.0]]])
    assert head.tokens(outside, None).tolist() == [[0, 0, 0, BINS // 2, BINS - 1, BINS - 1]]


@torch.no_grad()
def test_bins_lose_at_most_half_a_bin():
    network = build_policy_network(spec("bins"), seed=1).eval()
    actions = torch.rand(4, 2, 3) * 2 - 1
    output, said = network(observe(), some_codes(), None, actions)
    chosen = dataclasses.replace(output, bin_logits=None)
    assert (network.head(chosen, observe()).actions - actions).abs().max() <= 1 / BINS + 1e-6
    assert said.logits.shape == (4, 6, len(network.spec.vocabulary)) == (4, 6, len(WORDS) + BINS)


@torch.no_grad()
def test_bins_see_those_before_them_and_none_behind():
    network = build_policy_network(spec("bins"), seed=1).eval()
    actions = torch.zeros(4, 2, 3)
    other = actions.clone()
    other[:, 0, 2] = 0.9  # number 2 of 6
    a, b = (network(observe(), some_codes(), None, x)[1].logits for x in (actions, other))
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3], b[:, 3])


def test_bins_loss_is_the_likelihood_over_the_whole_vocabulary_of_real_steps():
    network = build_policy_network(spec("bins"), seed=1)
    seen, actions = observe(), torch.rand(4, 2, 3) * 2 - 1
    steps = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    _, said = network(seen, some_codes(), None, actions)
    (loss,) = network.head.losses(said, demonstration(seen, actions, steps)).values()
    logp, bins = said.logits.log_softmax(-1), network.head.tokens(actions, None)
    first = network.spec.vocabulary.first_bin_id
    by_hand = [-logp[r, i, first + bins[r, i]] for r in range(4) for i in range(6) if steps[r, i // 3]]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    loss.backward()
    assert network.latent.backbone.language.lm_head.weight.grad[first:].abs().sum() > 0


@torch.no_grad()
def test_blind_bins_do_not_see_the_latent_tokens_either():
    network = build_policy_network(spec("bins"), seed=1).eval()
    blind, actions = torch.tensor([True, False, True, False]), torch.zeros(4, 2, 3)
    a, b = (network(observe(), some_codes(seed=s), blind, actions)[1].logits for s in (0, 5))
    assert torch.equal(a[blind], b[blind])
    assert not torch.allclose(a[1], b[1])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_words_picture_and_state_reach_every_head(kind):
    network = build_policy_network(spec(kind), seed=3).eval()
    seen, codes = observe(), some_codes()

    def chunk(observation):
        said = network(observation, codes, None, torch.zeros(4, 2, 3))[1]
        return said.actions if said.logits is None else said.logits

    base = chunk(seen)
    for change in ("images", "proprioception"):
        assert not torch.allclose(base, chunk(dataclasses.replace(seen, **{change: 1 - getattr(seen, change)})))
    assert not torch.allclose(base, chunk(dataclasses.replace(seen, words=seen.words.flip(0))))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_body_acts_in_company_as_alone(kind):
    network = build_policy_network(spec(kind, BODIES), seed=1).eval()
    together = network.generate(observe(BODIES))[1].actions
    assert together.shape == (4, 5, 5)
    for row, body in enumerate((*BODIES, SLOW)):
        alone = network.generate(observe(BODIES, body=BODIES.index(body)))[1].actions
        torch.testing.assert_close(together[row], alone[row], atol=1e-5, rtol=0)
        padding = together[row].clone()
        padding[: body.chunk_steps, : body.action_width] = 0
        assert not padding.any()
        assert together[row, : body.chunk_steps, : body.action_width].any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_the_padding_teaches_nothing(kind):
    network = build_policy_network(spec(kind, BODIES), seed=1)
    seen, g = observe(BODIES), torch.Generator().manual_seed(0)
    actions = torch.rand(4, 5, 5, generator=g) * 2 - 1
    steps = torch.zeros(4, 5, dtype=torch.bool)
    axes = torch.zeros(4, 5, dtype=torch.bool)
    for row, body in enumerate((*BODIES, SLOW)):
        steps[row, : body.chunk_steps], axes[row, : body.action_width] = True, True
    junk = actions + 0.7 * (~(steps[..., None] & axes[:, None])).float()

    def gradient(found):
        network.zero_grad()
        batch = dataclasses.replace(demonstration(seen, found, steps), axis_mask=axes)
        _, said = network(seen, some_codes(), None, found)
        sum(network.head.losses(said, batch).values()).backward()
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    clean, dirty = gradient(actions), gradient(junk)
    for name, value in clean.items():
        torch.testing.assert_close(value, dirty[name], atol=1e-6, rtol=1e-5, msg=name)
    if kind != "bins":
        assert all(clean[f"head.decoders.{i}.mlp.4.weight"].abs().sum() > 0 for i in range(3))
        network.zero_grad()
        network(observe(BODIES, body=1), some_codes())[1].actions.sum().backward()
        weights = [decoder.mlp[4].weight.grad for decoder in network.head.decoders]
        assert [bool(w.any()) for w in weights] == [False, True, False]


def test_action_loss_counts_each_bodys_own_axes():
    predicted, actions = torch.zeros(2, 1, 3), torch.tensor([[[1.0, 3.0, 8.0]], [[2.0, 2.0, 2.0]]])
    axes = torch.tensor([[True, True, False], [True, True, True]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    assert float(action_loss(predicted, actions, mask, axes)) == 2.0
    assert of_body([torch.ones(2, 1)], None).shape == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_second_camera_is_seen_and_one_that_lacks_changes_nothing(kind):
    network = build_policy_network(spec(kind, cameras=1), seed=1).eval()
    seen, codes, forced = observe(cameras=1), some_codes(), torch.zeros(4, 2, 3)

    def chunk(observation):
        said = network(observation, codes, None, forced)[1]
        return said.actions if said.logits is None else said.logits

    dark = dataclasses.replace(seen, extra_images=(torch.zeros(4, 3, PX, PX),))
    assert not torch.allclose(chunk(seen), chunk(dark))
    lacking = torch.tensor([[True], [False], [True], [False]])
    a, b = (chunk(dataclasses.replace(x, extra_seen=lacking)) for x in (seen, dark))
    torch.testing.assert_close(a[1::2], b[1::2], atol=1e-6, rtol=0)
    assert not torch.allclose(a[::2], b[::2])
    codes_found, said = network.generate(seen)
    _, again = network(seen, codes_found, None, said.actions)
    torch.testing.assert_close(again.actions, said.actions, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_missing_camera_leaves_the_language_model_as_it_was_without():
    one, two = build_policy_network(spec(), seed=1).eval(), build_policy_network(spec(cameras=1), seed=1).eval()
    two.latent.load_state_dict(one.latent.state_dict(), strict=False)
    a = one(observe(), some_codes())[0]
    lacking = dataclasses.replace(observe(cameras=1), extra_seen=torch.zeros(4, 1, dtype=torch.bool))
    b = two(lacking, some_codes())[0]
    torch.testing.assert_close(a.act, b.act, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.slots, b.slots, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "parts",
    [
        {"vision": f"{HERE}:OutsideTower"},
        {"language": f"{HERE}:outside_language"},
        {"backbone": f"{HERE}:OutsideBackbone"},
        {"kind": f"{HERE}:OutsideHead"},
    ],
)
def test_parts_from_outside_survive_the_disk(parts, tmp_path):
    network = build_policy_network(spec(**parts), seed=1).eval()
    save_network(tmp_path, network.spec, network.state_dict())
    found, tensors = read_network(tmp_path)
    assert found == network.spec
    twin = build_policy_network(found, seed=9).eval()
    twin.load_state_dict(tensors)
    with torch.no_grad():
        assert torch.equal(twin.generate(observe())[1].actions, network.generate(observe())[1].actions)
    (name,) = parts.values()
    assert name.split(":")[1] in {
        type(part).__name__ for part in (network.head, network.latent.backbone, network.latent.backbone.tower)
    } | {"outside_language"}


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"vision": "resnet"}, "PrismaticConfig.vision"),
        ({"language": "gpt"}, "PrismaticConfig.language"),
        ({"backbone": "prismatik"}, "Did you mean 'prismatic'"),
        ({"kind": "bin"}, "Did you mean 'bins'"),
        ({"kind": f"{HERE}:Missing"}, "importable"),
    ],
)
def test_unknown_parts(parts, match):
    with pytest.raises(InputError, match=match):
        build_policy_network(spec(**parts), seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_serves_every_head_and_new_words(kind):
    pretrained = build_pretrain_network(dataclasses.replace(spec(), bodies=()), seed=1)
    old = dict(pretrained.state_dict())
    base = spec(kind, cameras=1)
    words = base.vocabulary.extended(["open the drawer"], num_bins=base.vocabulary.num_bins)
    network = build_policy_network(dataclasses.replace(base, vocabulary=words), seed=2)
    fresh = {n: v.clone() for n, v in network.state_dict().items()}
    load_pretrained(network, old, pretrained.spec.vocabulary)
    now = network.state_dict()
    for name in ("latent.backbone.language.model.embed_tokens.weight", "latent.backbone.language.lm_head.weight"):
        for word in WORDS.words:
            assert torch.equal(now[name][words.encode(word).ids[1]], old[name][WORDS.encode(word).ids[1]])
        for code in range(K):
            assert torch.equal(now[name][words.latent_id(code)], old[name][WORDS.latent_id(code)])
        assert torch.equal(now[name][words.act_id], old[name][WORDS.act_id])
        mean = old[name][NUM_SPECIAL : WORDS.first_latent_id].mean(0)
        torch.testing.assert_close(now[name][words.encode("drawer").ids[1]], mean)
        assert torch.equal(now[name][words.first_bin_id :], fresh[name][words.first_bin_id :])
    assert torch.equal(now["latent.backbone.tower.conv1.weight"], old["latent.backbone.tower.conv1.weight"])
    if kind != "bins":
        assert torch.equal(now["head.reader.conv.weight"], old["head.reader.conv.weight"])
        assert torch.equal(now["head.extra_readers.0.conv.weight"], fresh["head.extra_readers.0.conv.weight"])


def test_lora_trains_views_and_where_asked_the_vocabulary():
    network = build_policy_network(spec("bins", cameras=1), seed=1)
    apply_lora(network, rank=2, alpha=2.0, seed=0)
    names = set(trained_tensors(network))
    assert "latent.backbone.views" in names
    assert not any("embed_tokens" in n or "lm_head" in n for n in names)
    network = build_policy_network(spec("bins"), seed=1)
    apply_lora(network, rank=2, alpha=2.0, seed=0, train_vocabulary=True)
    assert {n for n in trained_tensors(network) if "embed_tokens" in n or "lm_head" in n} == {
        "latent.backbone.language.model.embed_tokens.weight",
        "latent.backbone.language.lm_head.weight",
    }


def test_chunks_in_seconds():
    assert HeadConfig(chunk_steps=4).steps_at(30.0) == 4
    assert [HeadConfig(chunk_s=0.8).steps_at(rate) for rate in (5.0, 30.0, 0.5)] == [4, 24, 1]


def test_wrong_proprioception():
    for kind in KINDS:
        network = build_policy_network(spec(kind), seed=1)
        with pytest.raises(InputError, match="5 axes"):
            network(dataclasses.replace(observe(), proprioception=None), some_codes())


def test_vocabulary_ids_with_bins():
    words = WORDS.extended(["Open the drawer!", None], num_bins=BINS)
    assert set(words.words) == {*WORDS.words, "open", "drawer"}
    assert words.first_bin_id + BINS == len(words)
    assert type(words).from_json(words.to_json()) == words
    assert type(words).from_json({k: v for k, v in WORDS.to_json().items() if k != "num_bins"}) == WORDS
    ids = words.ids_in(WORDS)
    assert len(ids) == len(words)
    assert (ids == -1).sum() == 2 + BINS
    assert WORDS.ids_in(WORDS).tolist() == list(range(len(WORDS)))
    assert spec().num_tokens == L
