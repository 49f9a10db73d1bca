"""The tokenizer's stage: one step in each precision, on the CPU, and what it reports."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cyclemimic.data.loader import PairArrays
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining
from tests.paper.small import BATCH, SIZE_PX, small_config

ON = Ramp(weight=0.1)
AC3 = ObjectiveConfig(objective="ac3", cycle=ON, realism=ON)
FURTHER = ("composition", "reversal", "flow", "reader", "adversary", "actions")
EVERY_TERM = replace(AC3, motion_weight=1.0, **dict.fromkeys(FURTHER, 0.1))
CRITIC = DiscriminatorConfig(width=16, blocks=1, heads=2)


class Pairs:
    """A loader of noise: pair number n of step s is a function of both."""

    bodies = ("a", "b", "c")
    action_std = np.ones(2, np.float32)

    def __init__(self, size=BATCH, leaving_out=()):
        self.size, self.leaving_out = size, leaving_out

    def batch(self, step, rows=slice(None)):
        rng = np.random.default_rng(step)
        now, later, latest = rng.integers(0, 255, (3, self.size, SIZE_PX, SIZE_PX, 3), np.uint8)
        further = {
            "latest": latest,
            "flow": rng.normal(0, 0.1, (self.size, 2, 4, 4)).astype(np.float16),
            "words": rng.integers(0, 11, (self.size, 5)),
            "action": rng.normal(size=(self.size, 2)).astype(np.float32),
            "action_known": np.arange(self.size) % 4 < 2 + 2 * (np.arange(self.size) < self.size // 2),
        }
        columns = {"now": now, "later": later, "body": np.arange(self.size) % 3, **further}
        columns |= dict.fromkeys(("clip", "frame", "pair"), np.zeros(self.size, np.int64))
        return PairArrays(**{k: v[rows] for k, v in columns.items() if k not in self.leaving_out})


def stage(objective=AC3, tokenizer=None, loader=None, critic=CRITIC, **changes):
    config = TokenizerTraining(
        tokenizer=tokenizer or small_config(),
        objective=objective,
        discriminator=critic,
        batch_size=(loader or Pairs()).size,
        **changes,
    )
    return TokenizerStage(config, loader or Pairs())


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
