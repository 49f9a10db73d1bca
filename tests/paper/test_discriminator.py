"""Psi: local and global logits; bounded losses, and the printed pair of losses as an option."""

import pytest
import torch

from cyclemimic.tokenizer.discriminator import Judgement, discriminator_loss, realism_loss
from tests.paper.small import BATCH, SIZE_PX, picture, small_critic


def frames(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return picture(torch.rand(BATCH, 3, SIZE_PX, SIZE_PX, generator=generator))


def judgement(seed):
    generator = torch.Generator().manual_seed(seed)
    return Judgement(local=torch.randn(7, 11, generator=generator), whole=torch.randn(7, generator=generator))


def test_one_logit_per_patch_and_one_per_frame():
    judged = small_critic()(frames(), frames())
    assert judged.local.shape == (BATCH, (SIZE_PX // 4) ** 2)
    assert judged.whole.shape == (BATCH,)


def test_pairs_are_judged_beside_the_frame_now():
    critic, later = small_critic(judges_pairs=True), frames()
    one, other = critic(later, frames(1)), critic(later, frames(2))
    assert one.whole.shape == (BATCH,) and not torch.allclose(one.whole, other.whole)


def test_printed_losses_equal_the_formula():
    real, fake = judgement(0), judgement(1)

    def formula(real, fake):
        psi_real, psi_fake = torch.sigmoid(real.double()), torch.sigmoid(fake.double())
        return (-psi_real.log()).mean() - (1 - psi_fake.log()).mean(), (1 - psi_fake.log()).mean()

    (local_psi, local_d), (whole_psi, whole_d) = (
        formula(real.local, fake.local),
        formula(real.whole, fake.whole),
    )
    assert discriminator_loss(real, fake, "printed").item() == pytest.approx(
        ((local_psi + whole_psi) / 2).item(), abs=1e-6
    )
    assert realism_loss(fake, "printed").item() == pytest.approx(((local_d + whole_d) / 2).item(), abs=1e-6)


@pytest.mark.parametrize(("form", "bounded"), [("logistic", True), ("hinge", True), ("printed", False)])
def test_only_the_printed_form_is_unbounded_below(form, bounded):
    real = Judgement(local=torch.full((2, 3), 50.0), whole=torch.full((2,), 50.0))
    fake = Judgement(local=torch.full((2, 3), -1e3), whole=torch.full((2,), -1e3))
    assert (discriminator_loss(real, fake, form) >= 0) == bounded


@pytest.mark.parametrize("form", ["logistic", "hinge", "printed"])
def test_both_losses_push_the_right_way(form):
    low = Judgement(local=torch.full((2, 3), -1.0), whole=torch.full((2,), -1.0))
    high = Judgement(local=torch.full((2, 3), 1.0), whole=torch.full((2,), 1.0))
    assert realism_loss(high, form) < realism_loss(low, form)
    assert discriminator_loss(high, low, form) < discriminator_loss(low, low, form)
    assert discriminator_loss(high, low, form) < discriminator_loss(high, high, form)


@pytest.mark.parametrize("part", ["local", "whole"])
def test_local_and_global_logits_both_count(part):
    fake = judgement(1)
    changed = Judgement(**{**vars(fake), part: getattr(fake, part) + 1})
    assert realism_loss(changed, "logistic") != realism_loss(fake, "logistic")
