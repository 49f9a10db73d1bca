"""The tokenizer's stage: one step in each precision, on the CPU, and what it reports."""

import numpy as np
import pytest
import torch

from cyclemimic.data.loader import PairArrays
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining
from tests.paper.small import BATCH, SIZE_PX, small_config


class Pairs:
    """A loader of noise: pair number n of step s is a function of both."""

    bodies = ("a", "b")

    def batch(self, step):
        rng = np.random.default_rng(step)
        now, later = rng.integers(0, 255, (2, BATCH, SIZE_PX, SIZE_PX, 3), np.uint8)
        zeros = np.zeros(BATCH, np.int64)
        return PairArrays(now=now, later=later, body=zeros, clip=zeros, frame=zeros, pair=zeros)


def stage(**changes):
    on = Ramp(weight=0.1)
    objective = ObjectiveConfig(objective="ac3", cycle=on, realism=on)
    discriminator = DiscriminatorConfig(width=16, blocks=1, heads=2)
    config = TokenizerTraining(
        tokenizer=small_config(), objective=objective, discriminator=discriminator, batch_size=BATCH, **changes
    )
    return TokenizerStage(config, Pairs())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_moves_tokenizer_and_critic_and_tells_every_term(precision):
    one = stage(precision=precision, gradient_norms_every=1)
    before = {k: v.clone() for k, v in one.state().items() if v.dtype.is_floating_point}
    figures = one.step(0)
    after = one.state()
    for part in ("tokenizer.encoder.", "tokenizer.decoder.", "tokenizer.quantizer.codebook", "critic."):
        assert any(not torch.equal(after[k], v) for k, v in before.items() if k.startswith(part)), part
    assert {"reconstruction", "cycle", "discriminator", "critic", "joint_codes", "cycle_accuracy"} <= set(figures)
    assert figures["gradient.cycle.encoder"] > 0
    assert all(torch.isfinite(v) for v in figures.values())
    assert int(one.on_steps["cycle"]) == int(one.on_steps["discriminator"]) == 1


def test_bf16_is_close_to_fp32():
    losses = [float(stage(precision=p).step(0)["reconstruction"].detach()) for p in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_equal_seeds_start_equal_and_other_seeds_do_not():
    first, again, other = (stage(seed=s).tokenizer.encoder.out.weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
