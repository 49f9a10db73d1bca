"""Backbone, latent policy and head at prime sizes: causality, padding, batches, generation, what is on disk."""

import dataclasses

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import ObservationBatch
from cyclemimic.policy.action_heads import BodyWidths, HeadConfig, action_loss, hindsight_loss
from cyclemimic.policy.lora import (
    adapted_layers,
    apply_lora,
    load_adapters,
    merge_lora,
    save_adapters,
    trained_tensors,
)
from cyclemimic.policy.network import (
    NetworkConfig,
    NetworkSpec,
    build_policy_network,
    build_pretrain_network,
    load_pretrained,
    read_network,
    save_network,
)
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.policy.reader import readout_loss, spatial_softmax
from cyclemimic.policy.towers import ConvTowerConfig, PrismaticVisionConfig, VitSize
from cyclemimic.policy.vocabulary import Vocabulary

K, L, A, P, S = 7, 3, 5, 11, 2
VOCABULARY = Vocabulary.build(["push the red cube left", "reach the blue cube"], num_codes=K)
VIT = VitSize(width=14, layers=2, heads=2, mlp_width=28, patch_px=7)
SIGLIP = VitSize(width=22, layers=3, heads=2, mlp_width=29, patch_px=7)


def spec(vision="convolutional", language="llama", actions=A, state=P):
    backbone = PrismaticConfig(
        vision=vision,
        language=language,
        image_px=24 if vision == "convolutional" else 21,
        width=26,
        layers=2,
        heads=13,
        mlp_width=37,
        conv_tower=ConvTowerConfig(channels=(5, 7), norm_groups=1, token_rows=3),
        prismatic_vision=PrismaticVisionConfig(dino=VIT, siglip=SIGLIP, registers=3, projector_width=17),
    )
    toy = BodyWidths(name="toy", action_width=actions, chunk_steps=S, proprioception_width=state)
    return NetworkSpec(
        config=NetworkConfig(
            backbone=backbone,
            head=HeadConfig(
                channels=11, norm_groups=1, maps=5, reader_width=13, mlp_width=17, octaves=2, chunk_steps=S
            ),
        ),
        vocabulary=VOCABULARY,
        num_tokens=L,
        bodies=(toy,) if actions else (),
    )


def observe(batch=3, side=24, state=P, seed=0, sentences=("push the red cube left", "reach", None)):
    g = torch.Generator().manual_seed(seed)
    words, mask = VOCABULARY.table([sentences[i % len(sentences)] for i in range(batch)])
    return ObservationBatch(
        images=torch.rand(batch, 3, side, side, generator=g),
        words=torch.from_numpy(words),
        word_mask=torch.from_numpy(mask),
        proprioception=torch.randn(batch, state, generator=g) if state else None,
    )


def some_codes(batch=3, seed=0):
    return torch.randint(K, (batch, L), generator=torch.Generator().manual_seed(seed))


KINDS = [
    ("convolutional", "llama"),
    ("convolutional", "qwen2"),
    ("dinov2+siglip", "llama"),
    ("dinov2+siglip", "qwen2"),
]


@pytest.mark.parametrize(("vision", "language"), KINDS)
@torch.no_grad()
def test_every_combination_runs_and_generation_equals_teacher_forcing(vision, language):
    network = build_policy_network(spec(vision, language), seed=1).eval()
    seen = observe(side=24 if vision == "convolutional" else 21)
    codes, said = network.generate(seen)
    assert codes.shape == (3, L)
    assert said.actions.shape == (3, S, A)
    assert said.hindsight.shape == (3, 3)
    output, forced = network(seen, codes)
    assert torch.equal(network.latent.code_logits(output.slots).argmax(-1), codes)
    torch.testing.assert_close(forced.actions, said.actions, atol=1e-5, rtol=0)
    again, repeated = network.generate(seen)
    assert torch.equal(again, codes)
    assert torch.equal(repeated.actions, said.actions)


@torch.no_grad()
def test_prismatic_vision_scales_pictures_and_forgets_nothing():
    network = build_policy_network(spec("dinov2+siglip"), seed=1).eval()
    tower = network.latent.backbone.tower
    seen = tower(observe(side=21).images, torch.zeros(3, 26))
    assert seen.tokens.shape == (3, 9, 26)
    assert seen.map.shape == (3, 36, 3, 3)
    assert tower(observe(side=29).images, torch.zeros(3, 26)).tokens.shape == (3, 9, 26)


@torch.no_grad()
def test_patches_of_the_map_lie_where_they_are_in_the_picture():
    tower = build_policy_network(spec("dinov2+siglip"), seed=1).eval().latent.backbone.tower
    dark = torch.zeros(1, 3, 21, 21)
    lit = dark.clone()
    lit[:, :, 7:14, 14:] = 1.0  # patch in row 1, column 2
    change = (tower(lit, torch.zeros(1, 26)).map - tower(dark, torch.zeros(1, 26)).map).norm(dim=1)[0]
    assert change.argmax() == 1 * 3 + 2


@torch.no_grad()
@pytest.mark.parametrize("language", ["llama", "qwen2"])
def test_causal_a_later_latent_token_changes_no_earlier_state(language):
    backbone = build_policy_network(spec(language=language), seed=2).eval().latent.backbone
    seen, codes = observe(), some_codes()
    other = codes.clone()
    other[:, 1] = (other[:, 1] + 1) % K
    a, b = backbone(seen, codes), backbone(seen, other)
    assert torch.equal(a.slots[:, :2], b.slots[:, :2])
    assert torch.equal(a.latents[:, :1], b.latents[:, :1])
    assert not torch.allclose(a.slots[:, 2], b.slots[:, 2])
    assert not torch.allclose(a.act, b.act)


@torch.no_grad()
def test_blind_act_does_not_depend_on_the_codes_and_only_where_asked():
    backbone = build_policy_network(spec(), seed=2).eval().latent.backbone
    seen, blind = observe(), torch.tensor([True, False, True])
    a, b = backbone(seen, some_codes(seed=0), blind), backbone(seen, some_codes(seed=5), blind)
    assert torch.equal(a.act[blind], b.act[blind])
    assert not torch.allclose(a.act[1], b.act[1])
    sighted = backbone(seen, some_codes(seed=0))
    assert torch.equal(sighted.slots, a.slots)
    torch.testing.assert_close(sighted.act[1], a.act[1])


@torch.no_grad()
def test_padding_changes_nothing():
    network = build_policy_network(spec(), seed=3).eval()
    seen, codes = observe(), some_codes()
    longer = dataclasses.replace(
        seen,
        words=torch.nn.functional.pad(seen.words, (0, 5), value=2),  # what is masked may be anything
        word_mask=torch.nn.functional.pad(seen.word_mask, (0, 5)),
    )
    a, b = network(seen, codes), network(longer, codes)
    torch.testing.assert_close(a[0].slots, b[0].slots, atol=1e-5, rtol=0)
    torch.testing.assert_close(a[1].actions, b[1].actions, atol=1e-5, rtol=0)
    assert torch.equal(network.generate(seen)[0], network.generate(longer)[0])
    torch.testing.assert_close(
        network.generate(seen)[1].actions, network.generate(longer)[1].actions, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch():
    network = build_policy_network(spec(), seed=3).eval()
    seen = observe(7)
    _, together = network.generate(seen)
    for i in range(7):
        one = ObservationBatch(
            images=seen.images[i : i + 1],
            words=seen.words[i : i + 1],
            word_mask=seen.word_mask[i : i + 1],
            proprioception=seen.proprioception[i : i + 1],
        )
        torch.testing.assert_close(network.generate(one)[1].actions[0], together.actions[i], atol=1e-5, rtol=0)


@torch.no_grad()
def test_words_and_picture_and_state_matter():
    network = build_policy_network(spec(), seed=3).eval()
    codes, seen = some_codes(), observe()
    base = network(seen, codes)[1].actions
    assert not torch.allclose(base, network(dataclasses.replace(seen, images=0 * seen.images), codes)[1].actions)
    assert not torch.allclose(base, network(dataclasses.replace(seen, words=seen.words.flip(0)), codes)[1].actions)
    moved = dataclasses.replace(seen, proprioception=1 + seen.proprioception)
    assert not torch.allclose(base, network(moved, codes)[1].actions)


def test_latent_loss_is_the_likelihood_over_the_whole_vocabulary():
    network = build_policy_network(spec(), seed=4)
    seen, codes = observe(), some_codes()
    output, _ = network(seen, codes)
    logp = network.latent.backbone.token_logits(output.slots).log_softmax(-1)
    assert logp.shape[-1] == len(VOCABULARY)
    by_hand = -torch.stack(
        [logp[b, i, VOCABULARY.latent_id(int(codes[b, i]))] for b in range(3) for i in range(L)]
    ).mean()
    torch.testing.assert_close(network.latent.latent_loss(output.slots, codes), by_hand)
    assert torch.equal(
        network.latent.code_logits(output.slots),
        network.latent.backbone.token_logits(output.slots)[..., VOCABULARY.latent_id(0) : VOCABULARY.act_id],
    )


def test_losses_by_hand():
    predicted, target = torch.zeros(2, 2, 3), torch.ones(2, 2, 3)
    target[1, 1] = 100.0
    mask = torch.tensor([[True, True], [True, False]])
    assert float(action_loss(predicted, target, mask)) == 1.0
    assert float(action_loss(predicted, target, mask & False)) == 0.0
    assert float(hindsight_loss(torch.zeros(5, 3), -2 * torch.ones(5, 3))) == 2.0
    assert float(readout_loss(torch.zeros(2, L, K), torch.zeros(2, L, dtype=torch.long))) == pytest.approx(
        float(torch.log(torch.tensor(K)))
    )


def test_spatial_softmax_finds_the_peak():
    heat = torch.full((1, 2, 5, 7), -50.0)
    heat[0, 0, 0, 6] = 50.0
    heat[0, 1, 4, 3] = 50.0
    torch.testing.assert_close(spatial_softmax(heat), torch.tensor([[-1.0, 1.0, 1.0, 0.0]]))


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    a = build_policy_network(spec(), seed=5).state_dict()
    before = torch.get_rng_state()
    b = build_policy_network(spec(), seed=5).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[n], b[n]) for n in a)
    c = build_policy_network(spec(), seed=6).state_dict()
    assert any(not torch.equal(a[n], c[n]) for n in a)


def test_pretraining_is_taken_over_and_the_rest_stays_new(tmp_path):
    pretrained = build_pretrain_network(spec(actions=0, state=0), seed=1)
    save_network(tmp_path, pretrained.spec, pretrained.state_dict())
    found, tensors = read_network(tmp_path)
    assert found == pretrained.spec
    network, fresh = build_policy_network(spec(), seed=2), build_policy_network(spec(), seed=2).state_dict()
    load_pretrained(network, tensors, VOCABULARY)
    for name, value in network.state_dict().items():
        shared = name.startswith(("latent.", "head.reader."))
        assert torch.equal(value, tensors[name] if shared else fresh[name]), name
    assert not any(name.startswith("head.readout") for name in network.state_dict())
    with pytest.raises(InputError, match="differ"):
        load_pretrained(network, {**tensors, "latent.backbone.tower.conv1.bias": torch.zeros(99)}, VOCABULARY)


def test_pretrain_head_must_look_at_the_picture():
    network = build_pretrain_network(spec(actions=0, state=0), seed=1).eval()
    with torch.no_grad():
        a, b = (
            network(observe(state=0), some_codes(seed=0))[1],
            network(observe(state=0), some_codes(seed=5))[1],
        )
        c = network(observe(state=0, seed=9), some_codes(seed=0))[1]
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_lora_trains_adapters_and_head_only(tmp_path):
    network = build_policy_network(spec(), seed=1).eval()
    seen, codes = observe(), some_codes()
    before = network(seen, codes)[1].actions.detach()
    layers = adapted_layers(network)
    frozen = {n: p.detach().clone() for n, p in network.named_parameters() if not n.startswith("head.")}
    apply_lora(network, rank=2, alpha=3.0, seed=0)
    torch.testing.assert_close(network(seen, codes)[1].actions, before)
    trained = set(trained_tensors(network))
    expected = {f"{n}.lora_{x}.default.weight" for n in layers for x in "AB"}
    assert trained == expected | {n for n, _ in network.named_parameters() if n.startswith("head.")}
    kinds = " ".join(layers)
    for part in ("tower.conv1", "tower.project", "q_proj", "o_proj", "gate_proj", "down_proj"):
        assert part in kinds
    assert "lm_head" not in kinds

    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        output, said = network(seen, codes)
        (network.latent.latent_loss(output.slots, codes) + said.actions.abs().mean()).backward()
        optimizer.step()
    after = network(seen, codes)[1].actions.detach()
    assert not torch.allclose(after, before)
    now = {n.replace(".base_layer", ""): p for n, p in network.named_parameters()}
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())

    save_adapters(tmp_path / "a.safetensors", network)
    twin = build_policy_network(spec(), seed=1).eval()
    apply_lora(twin, rank=2, alpha=3.0, seed=77)
    load_adapters(tmp_path / "a.safetensors", twin)
    assert torch.equal(twin(seen, codes)[1].actions, after)
    merge_lora(twin)
    assert set(twin.state_dict()) == set(build_policy_network(spec(), seed=1).state_dict())
    torch.testing.assert_close(twin(seen, codes)[1].actions, after, atol=1e-5, rtol=1e-5)
    other = build_policy_network(spec(), seed=1)
    apply_lora(other, rank=3, alpha=3.0, seed=0)
    with pytest.raises(InputError, match="rank"):
        load_adapters(tmp_path / "a.safetensors", other)


def test_lora_reaches_the_transformers_towers():
    network = build_policy_network(spec("dinov2+siglip"), seed=1)
    apply_lora(network, rank=2, alpha=2.0, seed=0)
    names = " ".join(trained_tensors(network))
    for part in ("projector.0", "dino.", "siglip.", "language."):
        assert part in names
    network(observe(side=21), some_codes())[1].actions.sum().backward()
    merge_lora(network)


def test_errors(tmp_path):
    with pytest.raises(InputError, match="divisible"):
        build_policy_network(
            dataclasses.replace(spec(), config=NetworkConfig(backbone=PrismaticConfig(image_px=30))), seed=0
        )
    for field, value in (("vision", "resnet"), ("language", "gpt")):
        config = dataclasses.replace(spec().config.backbone, **{field: value})
        with pytest.raises(InputError, match=field):
            build_policy_network(dataclasses.replace(spec(), config=NetworkConfig(backbone=config)), seed=0)
    bad = dataclasses.replace(spec("dinov2+siglip").config.backbone, image_px=22)
    with pytest.raises(InputError, match="patches"):
        build_policy_network(dataclasses.replace(spec(), config=NetworkConfig(backbone=bad)), seed=0)
    network = build_policy_network(spec(), seed=0)
    with pytest.raises(InputError, match="11 axes"):
        network(observe(state=0), some_codes())
    with pytest.raises(InputError, match="specification"):
        read_network(tmp_path)
