"""Deliberate faults: the tests that PAPER.md names must notice them. A test that cannot fail proves nothing."""

import dataclasses
import importlib

import pytest
import torch

from cyclemimic.tokenizer import ac3, buffer, objective
from cyclemimic.tokenizer.discriminator import CriticShape, Discriminator, DiscriminatorConfig
from tests.architecture.test_paper_md import paper_rows
from tests.paper import test_ac3 as ac3_claims
from tests.paper.small import SIZE_PX, has_gradient, small_batch, small_buffer, small_critic, small_tokenizer
from tests.paper.test_objective import REBUILT

# What a broken claim raises: a failed assertion, or torch's refusal to differentiate what was detached.
NOTICED = (AssertionError, RuntimeError)


def claims_of(idea):
    """The tests, as functions, of the row of PAPER.md whose idea starts like this."""
    (tests,) = [tests for found, _, tests in paper_rows() if found.startswith(idea)]
    modules = ((importlib.import_module("tests." + path.removesuffix(".py").replace("/", ".")), t) for path, t in tests)
    return [getattr(module, test) for module, test in modules]


def shuffled_labels(monkeypatch):
    """AC3 asks for another draw's codes than those that were acted out."""
    true = ac3.cycle_loss

    def wrong(embedding, drawn, quantizer, config):
        return true(embedding, drawn.roll(1, 0), quantizer, config)

    for module in (ac3, ac3_claims):
        monkeypatch.setattr(module, "cycle_loss", wrong)


def stale_buffer(monkeypatch):
    """The buffer takes batches until it is full, and never again."""
    true = buffer.LatentActionBuffer.push

    def wrong(self, codes, bodies):
        if len(self) < len(self.codes):
            true(self, codes, bodies)

    monkeypatch.setattr(buffer.LatentActionBuffer, "push", wrong)


def detached_critic(monkeypatch):
    """Psi's opinion of generated frames carries no gradient, so D cannot learn from it."""
    true = objective.realism_loss

    def wrong(fake, form):
        return true(dataclasses.replace(fake, local=fake.local.detach(), whole=fake.whole.detach()), form)

    monkeypatch.setattr(objective, "realism_loss", wrong)


MUTANTS = [
    (shuffled_labels, "L_C, the cycle's loss"),
    (stale_buffer, "Buffer: "),
    (detached_critic, "L_D teaches D alone"),
]
CASES = [
    pytest.param(mutate, claim, id=f"{mutate.__name__}-{claim.__name__}")
    for mutate, idea in MUTANTS
    for claim in claims_of(idea)
]


@pytest.mark.parametrize(("mutate", "claim"), CASES)
def test_the_fault_is_noticed(mutate, claim, monkeypatch):
    claim()
    mutate(monkeypatch)
    with pytest.raises(NOTICED):
        claim()


def one_update(critic):
    tokenizer, batch = small_tokenizer(), small_batch()
    on = objective.Ramp(weight=0.5)
    config = objective.ObjectiveConfig(cycle=on, realism=on)
    generator = torch.Generator().manual_seed(0)
    terms = objective.tokenizer_terms(tokenizer, critic, small_buffer(), batch, config, 0.0, generator)
    return tokenizer, batch, terms


def test_the_cycle_acts_on_unrelated_frames(monkeypatch):
    """o_c are the batch's frames in another order, each with its own stream."""
    seen = {}
    true = objective.run_cycle

    def spy(tokenizer, scene, stream, drawn, config, generator, real):
        seen.update(frames=scene.frames, stream=stream, drawn=drawn)
        return true(tokenizer, scene, stream, drawn, config, generator, real)

    monkeypatch.setattr(objective, "run_cycle", spy)
    tokenizer, batch, _ = one_update(small_critic())
    same = (seen["frames"][:, None] == batch.now).flatten(2).all(-1)  # [scene, frame of the batch]
    assert torch.equal(same.sum(0), torch.ones(len(batch), dtype=torch.int64))
    assert torch.equal(same.sum(1), torch.ones(len(batch), dtype=torch.int64))
    assert same.diagonal().sum() < len(batch) / 2
    for used, own in zip(seen["stream"].memory, tokenizer.watch(tokenizer.see(seen["frames"])).memory, strict=True):
        torch.testing.assert_close(used, own)


class JudgesCycledFramesOnly(Discriminator):
    """Looks at the end of what it is given: D(o_c, z_s)."""

    def forward(self, later, now):
        cycled = slice(REBUILT, None)
        return super().forward(later.take(cycled), now.take(cycled))


def cycled_frames_alone_teach_the_decoder():
    torch.manual_seed(1)
    critic = JudgesCycledFramesOnly(DiscriminatorConfig(width=16, blocks=1, heads=2), CriticShape(size_px=SIZE_PX))
    tokenizer, _, terms = one_update(critic)
    terms.losses["discriminator"].backward()
    assert has_gradient(tokenizer.decoder)


def test_cycled_frames_detached_from_the_decoder_are_noticed(monkeypatch):
    """Rebuilt frames would still teach D, so that a claim about all judged frames together overlooks this fault."""
    cycled_frames_alone_teach_the_decoder()
    true = objective.run_cycle

    def wrong(*arguments):
        cycle = true(*arguments)
        return dataclasses.replace(cycle, generated=cycle.generated.detached())

    monkeypatch.setattr(objective, "run_cycle", wrong)
    with pytest.raises(NOTICED):
        cycled_frames_alone_teach_the_decoder()
