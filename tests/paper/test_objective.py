"""One file names, weighs and sums the terms; each term teaches whom it should and nobody else."""

import pytest
import torch

from cyclemimic.tokenizer.objective import (
    ObjectiveConfig,
    Ramp,
    critic_loss,
    gradient_norms,
    reconstruction_loss,
    tokenizer_terms,
)
from tests.paper.small import BATCH, has_gradient, picture, small_batch, small_buffer, small_critic, small_tokenizer

REBUILT = len(range(0, BATCH, 4))  # how many of the judged frames are D(o_t, z_t)

ON = Ramp(weight=0.5)
OFF = Ramp(weight=0.5, start=1.0)


def evaluate(objective="ac3", cycle=ON, realism=ON, progress=0.0, critic=None, batch=None, tokenizer=None, buffer=None):
    tokenizer = tokenizer or small_tokenizer()
    critic = critic or small_critic()
    config = ObjectiveConfig(objective=objective, cycle=cycle, realism=realism)
    terms = tokenizer_terms(
        tokenizer,
        critic,
        small_buffer() if buffer is None else buffer,
        batch or small_batch(),
        config,
        progress,
        torch.Generator().manual_seed(0),
    )
    return tokenizer, critic, terms


def test_terms_and_weights_are_the_same_set_and_the_total_is_their_sum():
    _, _, terms = evaluate()
    assert set(terms.losses) == {
        "reconstruction",
        "commitment",
        "entropy",
        "painted",
        "cycle",
        "discriminator",
    }
    expected = sum(terms.weights[k] * v for k, v in terms.losses.items())
    torch.testing.assert_close(terms.total, expected)


def test_genie_is_the_same_objective_without_cycle_and_discriminator():
    _, _, genie = evaluate("genie")
    _, _, ac3 = evaluate("ac3")
    assert set(genie.losses) == {"reconstruction", "commitment", "entropy", "painted"}
    assert genie.judged is None
    for name in genie.losses:
        torch.testing.assert_close(genie.losses[name], ac3.losses[name])


def test_reconstruction_of_one_is_copying():
    batch = small_batch()
    now, later = picture(batch.now), picture(batch.later)
    torch.testing.assert_close(reconstruction_loss(now, now, later), torch.tensor(1.0))
    assert reconstruction_loss(later, now, later) == 0


def test_ramp_is_zero_then_linear_then_flat():
    ramp = Ramp(weight=0.8, start=0.5, length=0.2)
    assert [ramp.at(p) for p in (0, 0.49, 0.6, 0.7, 0.9)] == pytest.approx([0, 0, 0.4, 0.8, 0.8], abs=0.01)
    assert Ramp(weight=0.8).at(0) == pytest.approx(0.8)


def test_realism_teaches_the_decoder_alone():
    tokenizer, critic, terms = evaluate(cycle=OFF)
    terms.losses["discriminator"].backward()
    assert has_gradient(tokenizer.decoder)
    assert not has_gradient(tokenizer.encoder, tokenizer.backbone, tokenizer.change, tokenizer.quantizer)
    assert not has_gradient(critic)


def test_realism_reaches_the_decoder_through_generated_frames_too():
    """Mutant: discriminator detached. The gradient on D must come from D(o_c, z_s) as well as from D(o_t, z_t)."""
    tokenizer, _, terms = evaluate()
    fake = terms.judged.fake.frames
    (gradient,) = torch.autograd.grad(terms.losses["discriminator"], fake, retain_graph=True)
    assert gradient[:REBUILT].abs().sum() > 0
    assert gradient[REBUILT:].abs().sum() > 0
    terms.losses["discriminator"].backward()
    assert has_gradient(tokenizer.decoder)


def test_critic_learns_and_the_tokenizer_does_not():
    tokenizer, critic, terms = evaluate()
    critic_loss(critic, terms.judged, "logistic").backward()
    assert has_gradient(critic)
    assert not has_gradient(tokenizer)


def test_reconstruction_teaches_both_encoder_and_decoder():
    tokenizer, _, terms = evaluate("genie")
    terms.losses["reconstruction"].backward()
    assert has_gradient(tokenizer.encoder)
    assert has_gradient(tokenizer.decoder)


def test_half_of_the_judged_frames_are_cycled_ones():
    batch = small_batch(size=8)
    _, _, terms = evaluate(batch=batch)
    assert len(terms.judged.fake) == len(terms.judged.real) == 4
    _, _, before = evaluate(cycle=OFF, batch=batch)
    assert len(before.judged.fake) == len(before.judged.real) == 2
    torch.testing.assert_close(terms.judged.fake.frames[:2], before.judged.fake.frames)
    torch.testing.assert_close(terms.judged.real.frames, batch.later[1::2])


def test_pairs_are_judged_beside_the_frame_that_they_follow():
    batch = small_batch()
    _, _, terms = evaluate(critic=small_critic(judges_pairs=True), batch=batch)
    torch.testing.assert_close(terms.judged.real_now.frames, batch.now[1::2])
    torch.testing.assert_close(terms.judged.fake_now.frames[:REBUILT], batch.now[::4])


def test_every_batch_enters_the_buffer_before_drawing():
    """Mutant: buffer never refreshed."""
    buffer, tokenizer = small_buffer(batches=1), small_tokenizer()
    for seed in range(3):
        _, _, terms = evaluate(tokenizer=tokenizer, buffer=buffer, batch=small_batch(seed))
        assert torch.equal(buffer.codes, terms.latent.codes)


def test_gradient_norms_name_term_and_part():
    tokenizer, _, terms = evaluate()
    norms = gradient_norms(tokenizer, terms)
    assert norms["gradient.cycle.encoder"] > 0
    assert norms["gradient.cycle.decoder"] > 0
    assert norms["gradient.discriminator.encoder"] == 0
    assert norms["gradient.discriminator.decoder"] > 0
    assert norms["gradient.reconstruction.encoder"] > 0
