"""What the step computes once serves twice: losses and gradients equal those of separate passes, in float64."""

import pytest
import torch
from torch.nn import functional as F

from cyclemimic.nn.batches import Features, Scene
from cyclemimic.nn.transformer import SpatialAttention
from cyclemimic.tokenizer.discriminator import (
    CriticShape,
    Discriminator,
    DiscriminatorConfig,
    discriminator_loss,
    judge_once,
    realism_loss,
)

EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("form", ["logistic", "hinge", "printed"])
@pytest.mark.parametrize("kind", ["local-global", "local"])
@pytest.mark.parametrize("judges_pairs", [False, True])
@pytest.mark.parametrize("of_features", [False, True])
def test_one_judgement_teaches_both_what_two_would(form, kind, judges_pairs, of_features):
    torch.manual_seed(0)
    shape = CriticShape(size_px=16, feature_width=5, grid=(4, 4)) if of_features else CriticShape(size_px=16)
    sizes = {"width": 8, "blocks": 2, "heads": 2}
    critic = Discriminator(DiscriminatorConfig(kind=kind, judges_pairs=judges_pairs, **sizes), shape).double()

    def scene(x):
        return Scene(features=Features(patches=x, grid=(4, 4))) if of_features else Scene(frames=x)

    made, real, now, real_now = torch.rand(4, 3, *((16, 5) if of_features else (3, 16, 16)), dtype=torch.float64)
    weights = list(critic.parameters())

    def twice():
        """The passes apart: L_D with Psi held still, then L_Psi with D's gradient stopped."""
        fake, before = made.clone().requires_grad_(), now.clone().requires_grad_()
        loss = realism_loss(critic(scene(fake * 2), scene(before * 3)), form)
        of_fake = torch.autograd.grad(0.7 * loss, [fake, before], allow_unused=True)
        psi = discriminator_loss(
            critic(scene(real), scene(real_now)), critic(scene(fake.detach() * 2), scene(before.detach() * 3)), form
        )
        return loss, of_fake, psi, torch.autograd.grad(psi, weights)

    def once():
        fake, before = made.clone().requires_grad_(), now.clone().requires_grad_()
        loss, verdict = judge_once(critic, scene(fake * 2), scene(before * 3), lambda said: realism_loss(said, form))
        (0.7 * loss).backward()
        assert all(w.grad is None for w in weights), "L_D must not teach Psi"
        of_fake = fake.grad.clone(), None if before.grad is None else before.grad.clone()
        psi = discriminator_loss(critic(scene(real), scene(real_now)), verdict, form)
        psi.backward()
        torch.testing.assert_close(fake.grad, of_fake[0], rtol=0, atol=0)  # L_Psi must not teach D
        return loss, of_fake, psi, [w.grad for w in weights]

    for one, two in zip(once(), twice(), strict=True):
        pairs = zip(one, two, strict=True) if isinstance(one, (tuple, list)) else [(one, two)]
        for a, b in pairs:
            if b is None:
                assert a is None
            else:
                torch.testing.assert_close(a, b, **EXACT)


def test_scenes_that_nobody_can_change_are_judged_too():
    critic = Discriminator(DiscriminatorConfig(width=8, heads=2), CriticShape(size_px=16))
    frames = Scene(frames=torch.rand(2, 3, 16, 16))
    loss, verdict = judge_once(critic, frames, Scene(), lambda said: realism_loss(said, "hinge"))
    assert not loss.requires_grad
    verdict.local.sum().backward()
    assert critic.local.weight.grad is not None


@pytest.mark.parametrize(("read", "tokens", "few"), [(1, 9, True), (2, 40, True), (4, 6, False)])
def test_few_that_ask_see_what_they_saw_among_all(read, tokens, few, monkeypatch):
    torch.manual_seed(0)
    layer, calls = SpatialAttention(12, 3).double(), []
    by_few = layer._few
    monkeypatch.setattr(layer, "_few", lambda *told: calls.append(told) or by_few(*told))
    x = torch.randn(3, tokens, 12, dtype=torch.float64, requires_grad=True)
    aim = torch.randn(3, read, 12, dtype=torch.float64)

    def plainly():
        parts = F.linear(x, layer.qkv.weight, layer.qkv.bias).view(3, tokens, 3, 3, 4)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * 4**-0.5).softmax(-1)
        return layer.out((weights @ value).transpose(1, 2).flatten(2))[:, :read]

    told = [x, *layer.parameters()]
    made, wanted = layer(x, read), plainly()
    torch.testing.assert_close(made, wanted, **EXACT)
    ours, theirs = (torch.autograd.grad((y * aim).sum(), told) for y in (made, wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    assert bool(calls) == few
