"""The controls: what sets LAPA and UniVLA apart is in the tokenizer, and parts can come from outside the package."""

from dataclasses import replace

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.tokenizer.ac3 import AC3Config, corrupt, run_cycle
from cyclemimic.tokenizer.decoders import FeatureDecoder
from cyclemimic.tokenizer.discriminator import CriticShape, Discriminator, DiscriminatorConfig, build_critic
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp, critic_loss, reconstruction_loss, tokenizer_terms
from cyclemimic.tokenizer.quantizer import QuantizerConfig
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.optim import adamw, update
from tests.paper import outside
from tests.paper.small import (
    BATCH,
    CODE_WIDTH,
    CODES,
    FROZEN,
    SIZE_PX,
    TOKENS,
    has_gradient,
    picture,
    small_batch,
    small_buffer,
    small_config,
    small_tokenizer,
)

HERE = "tests.paper.outside"
NSVQ = QuantizerConfig(kind="nsvq", num_codes=CODES, reset_after=11)
FEATURES = {"decoder": "feature", "change": "features", "backbone": FROZEN}
SECOND = {**FEATURES, "given_tokens": TOKENS}
WORDS = torch.tensor([[3, 5, 0], [7, 0, 0], [0, 0, 0], [2, 2, 2], [5, 3, 0], [1, 4, 6]])
ON = Ramp(weight=0.5)


def seed(number=0):
    return torch.Generator().manual_seed(number)


def lapa(**changes):
    encoder = replace(small_config().encoder, readout="difference")
    return small_tokenizer(quantizer=NSVQ, encoder=encoder, **changes)


def learnt(decoder):
    """A feature decoder that no longer copies."""
    torch.nn.init.normal_(decoder.out.weight, generator=seed(3))
    return decoder


def said_of(tokenizer, batch, words=None):
    now, later = tokenizer.see(batch.now), tokenizer.see(batch.later)
    return tokenizer.read(tokenizer.watch(now, words), now, later, words)


# LAPA


def test_nsvq_adds_noise_as_long_as_the_error():
    book = lapa().quantizer
    z = torch.nn.functional.normalize(torch.randn(BATCH, TOKENS, CODE_WIDTH), dim=-1)
    latent = book(z, seed())
    error = (z - book.look_up(latent.codes)).norm(dim=-1)
    torch.testing.assert_close((latent.vectors - z).norm(dim=-1), error)
    assert not torch.allclose(latent.vectors, book.look_up(latent.codes), atol=1e-2)
    assert torch.equal(latent.vectors, book(z, seed()).vectors)
    assert not torch.allclose(latent.vectors, book(z, seed(1)).vectors, atol=1e-2)


def test_nsvq_lets_the_decoder_teach_the_codebook_and_the_encoder():
    tokenizer, config = lapa(), ObjectiveConfig(objective="lapa")
    terms = tokenizer_terms(tokenizer, None, None, small_batch(), config, 0.0, seed())
    terms.losses["reconstruction"].backward()
    assert tokenizer.quantizer.codebook.grad[terms.latent.codes.unique()].abs().sum() > 0
    assert has_gradient(tokenizer.encoder)
    assert "commitment" not in terms.losses


def test_nsvq_labels_without_noise():
    tokenizer, batch = lapa().eval(), small_batch()
    latent = tokenizer.encode(batch.now, batch.later)
    torch.testing.assert_close(latent.vectors, tokenizer.quantizer.look_up(latent.codes))
    assert torch.equal(latent.codes, tokenizer.label(batch.now, batch.later)[0])


def test_nsvq_codebook_goes_back_to_the_sphere_and_dead_codes_are_replaced():
    book = small_tokenizer(quantizer=replace(NSVQ, reset_after=2)).quantizer
    with torch.no_grad():
        book.codebook.mul_(3.0)
    direction = book.codebook[4].clone() / 3
    z = torch.nn.functional.normalize(torch.randn(1, TOKENS, CODE_WIDTH).expand(BATCH, -1, -1), dim=-1)
    assert not len(book.follow(book(z), seed()))
    torch.testing.assert_close(book.codebook.norm(dim=-1), torch.ones(CODES))
    torch.testing.assert_close(book.codebook[4], direction)
    dead = book.follow(book(z), seed())
    assert len(dead) >= CODES - TOKENS
    assert torch.cdist(book.codebook[dead], z[0]).amin(1).max() < 1e-3


def test_difference_of_both_frames_tokens():
    tokenizer, batch = lapa(change="none"), small_batch()
    now, later = tokenizer.see(batch.now), tokenizer.see(batch.later)
    stream = tokenizer.watch(now)
    said = tokenizer.read(stream, now, later)
    tokenizer.encoder.config = replace(tokenizer.encoder.config, readout="later")
    of_later = tokenizer.read(stream, now, later)
    of_now = tokenizer.encoder.out(tokenizer.encoder.norm(stream.tokens))
    torch.testing.assert_close(said, of_later - of_now)


def test_difference_is_zero_where_both_frames_are_equal():
    tokenizer, batch = lapa(change="none"), small_batch()
    with torch.no_grad():
        tokenizer.encoder.frame[1] = tokenizer.encoder.frame[0]  # nothing else tells the frames apart
    still = said_of(tokenizer, replace(batch, later=batch.now))
    torch.testing.assert_close(still, torch.zeros_like(still), atol=1e-5, rtol=0)
    assert said_of(tokenizer, batch).abs().max() > 1e-3


def test_the_frame_now_knows_nothing_of_what_follows_where_a_difference_is_read():
    tokenizer, batch = lapa(), small_batch()
    later = batch.later.clone().requires_grad_()
    now = tokenizer.see(batch.now)
    stream = tokenizer.watch(now)
    tokenizer.read(stream, now, tokenizer.see(later))
    assert torch.autograd.grad(stream.tokens.sum(), later, allow_unused=True) == (None,)
    taken = stream.take(torch.tensor([4, 1]))
    torch.testing.assert_close(taken.tokens, tokenizer.watch(now.take(torch.tensor([4, 1]))).tokens)


# UniVLA


def test_reconstruction_in_feature_space_is_one_where_the_decoder_copies():
    tokenizer, batch = small_tokenizer(**FEATURES), small_batch()
    now, later = tokenizer.see(batch.now), tokenizer.see(batch.later)
    rebuilt = tokenizer.decode(now, torch.randn(BATCH, TOKENS, CODE_WIDTH)).scene
    torch.testing.assert_close(rebuilt.features.patches, now.features.patches)  # it begins as a copy
    torch.testing.assert_close(reconstruction_loss(rebuilt, now, later), torch.tensor(1.0))
    exact = replace(later, frames=None)
    assert reconstruction_loss(exact, now, later) == 0
    assert not tokenizer.draws


def test_what_moves_counts_more_in_features_too():
    tokenizer, batch = small_tokenizer(**FEATURES), small_batch()
    batch.later[:, :, : SIZE_PX // 2] = batch.now[:, :, : SIZE_PX // 2]
    now, later = tokenizer.see(batch.now), tokenizer.see(batch.later)
    half = len(now.features.patches[0]) // 2
    right_below = now.features.patches.clone()
    right_below[:, half:] = later.features.patches[:, half:]
    guess = replace(now, frames=None, features=replace(now.features, patches=right_below))
    assert reconstruction_loss(guess, now, later, strength=9.0) < 0.5 * reconstruction_loss(guess, now, later)


def test_features_depend_on_the_latent_action():
    tokenizer, batch = small_tokenizer(**FEATURES), small_batch()
    learnt(tokenizer.decoder)
    vectors = torch.randn(BATCH, TOKENS, CODE_WIDTH)
    one, other = (tokenizer.decode(tokenizer.see(batch.now), v).scene for v in (vectors, -vectors))
    assert one.frames is None
    assert not torch.allclose(one.features.patches, other.features.patches, atol=1e-3)


@pytest.mark.parametrize("kind", ["conv", f"{HERE}:Backbone"])
def test_features_that_learn_are_refused(kind):
    with pytest.raises(InputError, match="frozen"):
        small_tokenizer(decoder="feature", backbone=BackboneConfig(kind=kind, width=24))


def test_in_bf16_small_changes_of_large_features_are_not_swallowed():
    tokenizer, batch = small_tokenizer(**FEATURES), small_batch()
    torch.nn.init.constant_(tokenizer.decoder.out.bias, 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        now = tokenizer.see(batch.now)
        now = replace(now, features=replace(now.features, patches=now.features.patches + 8))
        rebuilt = tokenizer.decode(now, torch.zeros(BATCH, TOKENS, CODE_WIDTH)).scene
    change = rebuilt.features.patches - now.features.patches.float()
    torch.testing.assert_close(change, torch.full_like(change, 1e-3), rtol=0.02, atol=0)


def test_ac3_on_features():
    tokenizer, batch = small_tokenizer(**FEATURES), small_batch()
    learnt(tokenizer.decoder)
    now = tokenizer.see(batch.now)
    critic = Discriminator(
        DiscriminatorConfig(width=16, blocks=1, heads=2), CriticShape(size_px=SIZE_PX, feature_width=24, grid=(4, 4))
    )
    config = ObjectiveConfig(cycle=ON, realism=ON)
    terms = tokenizer_terms(tokenizer, critic, small_buffer(), batch, config, 0.0, seed())
    assert terms.judged.fake.frames is None
    terms.losses["discriminator"].backward(retain_graph=True)
    assert has_gradient(tokenizer.decoder) and not has_gradient(tokenizer.encoder, critic)
    tokenizer.zero_grad()
    terms.losses["cycle"].backward(retain_graph=True)
    assert has_gradient(tokenizer.decoder) and has_gradient(tokenizer.encoder)
    critic_loss(critic, terms.judged, "logistic").backward()
    assert has_gradient(critic.stem) and has_gradient(critic.pool)
    scene = replace(now, frames=None)
    noisy = corrupt(scene, AC3Config(noise=0.3), seed()).features.patches - scene.features.patches
    assert noisy.std() == pytest.approx(0.3 * float(scene.features.patches.std(correction=0)), rel=0.1)
    assert corrupt(scene, AC3Config(noise=0.0), seed()).features.patches is scene.features.patches


def test_the_first_stage_hears_words():
    tokenizer, batch = small_tokenizer(**FEATURES, words=True, word_hashes=11), small_batch()
    learnt(tokenizer.decoder)
    none, some = torch.zeros_like(WORDS), WORDS
    assert torch.isfinite(said_of(tokenizer, batch, none)).all()
    assert not torch.allclose(said_of(tokenizer, batch, some), said_of(tokenizer, batch, none), atol=1e-3)
    now, vectors = tokenizer.see(batch.now), torch.randn(BATCH, TOKENS, CODE_WIDTH)
    heard, deaf = (tokenizer.decode(now, vectors, words=w).scene.signal for w in (some, none))
    assert not torch.allclose(heard[:2], deaf[:2], atol=1e-3)
    torch.testing.assert_close(heard[2], deaf[2])  # this one is all padding
    terms = tokenizer_terms(
        tokenizer, None, None, replace(batch, words=some), ObjectiveConfig(objective="univla"), 0.0, seed()
    )
    terms.losses["reconstruction"].backward()
    assert has_gradient(tokenizer.words)


def test_pixels_can_be_painted_by_words_and_moved_only_without():
    tokenizer, batch = small_tokenizer(decoder="pixel", words=True, word_hashes=11), small_batch()
    torch.nn.init.normal_(tokenizer.decoder.out.weight)
    vectors = torch.randn(BATCH, TOKENS, CODE_WIDTH)
    one, other = (tokenizer.decode(picture(batch.now), vectors, words=w).frames for w in (WORDS, WORDS * 0))
    assert not torch.allclose(one[:2], other[:2], atol=1e-3)
    with pytest.raises(InputError, match="words"):
        small_tokenizer(decoder="motion", words=True)


def second_stage():
    first = small_tokenizer(**FEATURES, words=True, word_hashes=11)
    torch.manual_seed(5)
    second = LatentActionTokenizer(small_config(**SECOND)).train()
    second.take_over(first)
    return first, second


def test_the_second_stage_keeps_what_the_first_has_learnt():
    first, second = second_stage()
    kept = {
        "encoder.given": first.encoder.action_tokens,
        **{f"given_quantizer.{k}": v for k, v in first.quantizer.state_dict().items()},
    }
    kept = {k: v.detach().clone() for k, v in kept.items()}
    optimizer, book = adamw(second, learning_rate=0.01, weight_decay=0.1), second.quantizer.codebook.clone()
    for step in range(3):
        config = ObjectiveConfig(objective="univla", painted=0.0)
        terms = tokenizer_terms(second, None, None, small_batch(step), config, 0.0, seed(step))
        update(optimizer, terms.total, clip_norm=1.0)
        second.quantizer.follow(terms.latent, seed(step))
    assert all(torch.equal(second.state_dict()[name], value) for name, value in kept.items())
    assert not torch.equal(second.encoder.action_tokens, first.encoder.action_tokens)
    assert not torch.equal(second.quantizer.codebook, book)
    torch.testing.assert_close(second.backbone.mix.weight, first.backbone.mix.weight, rtol=0, atol=0)


def test_the_second_stage_decodes_both_sets_and_speaks_of_its_own():
    _, second = second_stage()
    learnt(second.decoder)
    batch = small_batch()
    latent = second.encode(batch.now, batch.later)
    assert second.words is None and second.encoder.word_in is None
    assert said_of(second, batch).shape == (BATCH, 2 * TOKENS, CODE_WIDTH)
    assert latent.codes.shape == latent.embedding.shape[:2] == (BATCH, TOKENS)
    assert second.label(batch.now, batch.later)[0].shape == (BATCH, TOKENS)
    assert latent.given.shape == (BATCH, TOKENS, CODE_WIDTH)
    among = torch.cdist(latent.given.flatten(0, 1), second.given_quantizer.codebook).amin(1)
    assert among.max() < 1e-3
    now = second.see(batch.now)
    as_is = second.decode(now, latent.vectors, given=latent.given).scene.signal
    for vectors, given in ((-latent.vectors, latent.given), (latent.vectors, -latent.given)):
        assert not torch.allclose(second.decode(now, vectors, given=given).scene.signal, as_is, atol=1e-3)
    unknown = second.decode(now, latent.vectors, given=torch.zeros_like(latent.given)).scene.signal
    torch.testing.assert_close(second.decode(now, latent.vectors).scene.signal, unknown)


def test_critics_judge_what_the_second_stage_makes_of_both_sets():
    _, second = second_stage()
    learnt(second.decoder)
    batch, shape = small_batch(), CriticShape(size_px=SIZE_PX, feature_width=24, grid=(4, 4))
    critic = Discriminator(DiscriminatorConfig(width=16, blocks=1, heads=2), shape)
    config = ObjectiveConfig(cycle=Ramp(weight=0.5, start=1.0), realism=ON)
    terms = tokenizer_terms(second, critic, small_buffer(), batch, config, 0.0, seed())
    latent, now = terms.latent, second.see(batch.now[::4])
    made = second.decode(now, latent.vectors[::4], given=latent.given[::4]).scene
    torch.testing.assert_close(terms.judged.fake.signal, made.signal)


def test_the_second_stage_survives_a_round_trip(tmp_path):
    _, second = second_stage()
    second.save(tmp_path)
    again, batch = LatentActionTokenizer.load(tmp_path), small_batch()
    assert torch.equal(again.label(batch.now, batch.later)[0], second.label(batch.now, batch.later)[0])
    assert not again.encoder.given.requires_grad


# Frozen backbones


def test_a_frozen_backbone_learns_nothing_but_passes_the_cycle_on_to_the_decoder():
    tokenizer, batch = small_tokenizer(backbone=FROZEN, change="none"), small_batch()
    trained = {id(p) for g in adamw(tokenizer, learning_rate=1.0, weight_decay=0.0).param_groups for p in g["params"]}
    assert not trained & {id(p) for p in tokenizer.backbone.parameters()}
    now = tokenizer.see(batch.now)
    drawn = torch.randint(CODES, (BATCH, TOKENS), generator=seed())
    run_cycle(tokenizer, now, tokenizer.watch(now), drawn, AC3Config(), seed()).loss.backward()
    # Without the change of pixels the way to D leads through the backbone alone.
    assert has_gradient(tokenizer.decoder)
    assert not has_gradient(tokenizer.backbone)


@pytest.mark.parametrize("trainable", [False, True])
def test_only_a_frozen_backbone_stays_in_evaluation_mode(trainable):
    config = BackboneConfig(kind=f"{HERE}:Backbone", width=24, trainable=trainable)
    tokenizer = small_tokenizer(backbone=config)
    assert isinstance(tokenizer.backbone, outside.Backbone)
    assert tokenizer.backbone.training == tokenizer.backbone.dropout.training == trainable
    assert tokenizer.encoder.training and not tokenizer.eval().encoder.training


def test_a_backbone_from_elsewhere_is_named_and_not_copied(tmp_path, monkeypatch):
    config = BackboneConfig(kind=f"{HERE}:Loaded", width=24, trainable=False)
    tokenizer = small_tokenizer(backbone=config)
    assert not [name for name in tokenizer.own_state() if name.startswith("backbone.")]
    assert [name for name in small_tokenizer(backbone=FROZEN).own_state() if name.startswith("backbone.")]
    tokenizer.save(tmp_path)
    torch.manual_seed(0)  # the same weights, from elsewhere
    assert LatentActionTokenizer.load(tmp_path).backbone_sha256 == outside.Loaded.weights_sha256
    monkeypatch.setattr(outside.Loaded, "weights_sha256", "b" * 64)
    with pytest.raises(InputError, match="aaaa"):
        LatentActionTokenizer.load(tmp_path)


def test_patches_that_no_stem_meets_are_told():
    with pytest.raises(InputError, match="patches"):
        small_tokenizer(backbone=BackboneConfig(kind=f"{HERE}:Backbone", width=24, stride_px=1))


# Critics and decoders by name


@pytest.mark.parametrize(("kind", "local", "whole"), [("local-global", True, True), ("local", True, False)])
def test_critics_by_name(kind, local, whole):
    torch.manual_seed(0)
    critic = build_critic(DiscriminatorConfig(kind=kind, width=16, blocks=1, heads=2), CriticShape(size_px=SIZE_PX))
    judged = critic(picture(small_batch().later), picture(small_batch().now))
    assert (judged.local is not None, judged.whole is not None) == (local, whole)


def test_without_a_critic_the_cycle_goes_on_and_nobody_judges():
    assert build_critic(DiscriminatorConfig(kind="none"), CriticShape(size_px=SIZE_PX)) is None
    config = ObjectiveConfig(cycle=ON, realism=ON)
    terms = tokenizer_terms(small_tokenizer(), None, small_buffer(), small_batch(), config, 0.0, seed())
    assert "cycle" in terms.losses and "discriminator" not in terms.losses
    assert terms.judged is None and torch.isfinite(terms.total)


def test_a_critic_from_outside():
    critic = build_critic(DiscriminatorConfig(kind=f"{HERE}:Greyness"), CriticShape(size_px=SIZE_PX))
    assert critic.shape.size_px == SIZE_PX
    config = ObjectiveConfig(cycle=ON, realism=ON)
    tokenizer = small_tokenizer()
    terms = tokenizer_terms(tokenizer, critic, small_buffer(), small_batch(), config, 0.0, seed())
    terms.losses["discriminator"].backward()
    assert has_gradient(tokenizer.decoder) and not has_gradient(critic)
    critic_loss(critic, terms.judged, "logistic").backward()
    assert has_gradient(critic)


def test_a_decoder_from_outside():
    tokenizer, batch = small_tokenizer(decoder=f"{HERE}:Brightness"), small_batch()
    assert tokenizer.draws and tokenizer.decoder.shape.num_tokens == TOKENS
    terms = tokenizer_terms(
        tokenizer, None, None, batch, ObjectiveConfig(objective="genie", painted=0.1), 0.0, seed()
    )  # fmt: skip
    terms.losses["reconstruction"].backward()
    assert has_gradient(tokenizer.decoder) and has_gradient(tokenizer.encoder)
    assert not isinstance(tokenizer.decoder, FeatureDecoder)


@pytest.mark.parametrize(
    "make",
    [
        lambda name: small_tokenizer(decoder=name),
        lambda name: small_tokenizer(backbone=BackboneConfig(kind=name)),
        lambda name: build_critic(DiscriminatorConfig(kind=name), CriticShape(size_px=SIZE_PX)),
    ],
)
@pytest.mark.parametrize("name", ["moton", f"{HERE}:Nobody", "no.such.module:Name"])
def test_unknown_parts_are_told(make, name):
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        make(name)
