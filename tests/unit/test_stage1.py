"""The tokenizer's stage: one step in each precision, on the CPU, and what it reports."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cyclemimic.data.loader import PairArrays
from cyclemimic.errors import InputError
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.tokenizer.discriminator import DiscriminatorConfig
from cyclemimic.tokenizer.further_terms import Helpers
from cyclemimic.tokenizer.objective import ObjectiveConfig, Ramp
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.stage1_tokenizer import TokenizerStage, TokenizerTraining, grouped, train_tokenizer
from tests.paper.small import BATCH, FROZEN, SIZE_PX, TOKENS, small_config

ON = Ramp(weight=0.1)
AC3 = ObjectiveConfig(objective="ac3", cycle=ON, realism=ON)
FURTHER = ("composition", "reversal", "flow", "reader", "adversary", "actions")
EVERY_TERM = replace(AC3, motion_weight=1.0, **dict.fromkeys(FURTHER, 0.1))
CRITIC = DiscriminatorConfig(width=16, blocks=1, heads=2)


class Pairs:
    """A loader of noise: pair number n of step s is a function of both."""

    bodies = ("a", "b", "c")
    action_std = np.ones(2, np.float32)
    pairs_per_body = np.ones(3, np.int64)

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


def differing(one, other):
    """The names that differ."""
    return [k for k, v in one.items() if not torch.equal(v, other[k])] + sorted(one.keys() ^ other.keys())


@pytest.mark.parametrize("decoder", ["motion", "pixel", "feature"])
def test_state_holds_all_that_the_next_steps_depend_on(decoder):
    """Stopped behind a step and started anew, with every term on, a stage takes the same next steps, bit for bit."""
    sizes = small_config(decoder=decoder)
    if decoder == "feature":
        sizes = replace(sizes, change="features", backbone=FROZEN)

    def fresh():
        return stage(EVERY_TERM, sizes, steps=7, warmup=2, gradient_norms_every=2)

    unbroken = fresh()
    for step in range(3):
        unbroken.step(step)
    saved = {k: v.detach().clone() for k, v in unbroken.state().items()}
    resumed = fresh()
    with torch.no_grad():
        for value in resumed.tokenizer.parameters():
            value.add_(1.0)  # nothing of the start may be left
    resumed.load_state(saved)
    for step in range(3, 5):
        figures = [one.step(step) for one in (unbroken, resumed)]
        assert all(figure.pop("data_wait_s") >= 0 for figure in figures)
        assert figures[0].keys() == figures[1].keys()
        assert {*FURTHER} <= set(figures[0])
        assert all(torch.equal(figures[0][name], figures[1][name]) for name in figures[0].keys() - {"data_wait_s"})
    assert not differing(unbroken.state(), resumed.state())


def test_a_frozen_backbone_from_elsewhere_is_not_in_the_checkpoint():
    sizes = small_config(backbone=BackboneConfig(kind="tests.paper.outside:Loaded", width=24, trainable=False))
    one = stage(EVERY_TERM, sizes)
    before = one.tokenizer.backbone.scale.clone()
    one.step(0)
    assert not [name for name in one.state() if "backbone" in name]
    assert torch.equal(one.tokenizer.backbone.scale, before)
    assert one.helpers.reader.reader.backbone is one.tokenizer.backbone


def test_helpers_are_there_only_where_their_weight_is():
    assert vars(stage().helpers) == dict.fromkeys(vars(Helpers()))
    assert stage(replace(AC3, flow=0.1)).helpers.flow is None  # the motion decoder has a flow of its own
    assert stage(replace(AC3, flow=0.1), small_config(decoder="pixel")).helpers.flow is not None
    assert stage(replace(AC3, objective="genie", reader=0.1)).helpers.reader is None
    every = stage(EVERY_TERM).helpers
    assert all(getattr(every, name) is not None for name in ("adversary", "actions", "origin", "reader"))
    held = {id(p) for group in stage(EVERY_TERM).optimizer.param_groups for p in group["params"]}
    assert len(held) == len({id(p) for group in stage().optimizer.param_groups for p in group["params"]}) + 4 + 2 + 1


def test_helpers_do_not_change_where_the_tokenizer_starts():
    plain, further = stage(), stage(EVERY_TERM)
    assert not [
        k for k, v in plain.tokenizer.state_dict().items() if not torch.equal(v, further.tokenizer.state_dict()[k])
    ]
    assert not [k for k, v in plain.critic.state_dict().items() if not torch.equal(v, further.critic.state_dict()[k])]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("decoder", ["motion", "pixel", "feature"])
def test_every_term_moves_the_tokenizer_in_each_precision(decoder, precision):
    sizes = small_config(decoder=decoder, change="features", backbone=FROZEN)
    one = stage(EVERY_TERM, sizes, precision=precision, gradient_norms_every=1)
    before = {k: v.clone() for k, v in one.state().items()}
    figures = one.step(0)
    assert all(torch.isfinite(v) for v in figures.values())
    after = one.state()
    moved = {
        name.split(".")[1] for name, v in before.items() if name[:8] == "helpers." and not torch.equal(after[name], v)
    }
    assert moved == set(one.helpers.trained())
    assert not torch.equal(after["reader.encoder.out.weight"], before["reader.encoder.out.weight"])
    assert figures["gradient.reader.encoder"] == 0 < figures["gradient.composition.encoder"]


def test_a_branch_begins_with_its_trunks_reader():
    trunk = small_config()
    torch.manual_seed(9)
    tokenizer = LatentActionTokenizer(trunk)
    one = stage(EVERY_TERM)
    one.begin_from(tokenizer)
    reader = one.helpers.reader.reader
    assert torch.equal(one.tokenizer.encoder.out.weight, tokenizer.encoder.out.weight)
    assert torch.equal(reader.encoder.out.weight, tokenizer.encoder.out.weight)
    assert torch.equal(reader.quantizer.codebook, tokenizer.quantizer.codebook)


@pytest.mark.parametrize("missing", [["latest", "composition"], ["flow"], ["action", "actions"]])
def test_a_loader_that_lacks_what_a_term_wants_is_told(missing):
    one = stage(EVERY_TERM, loader=Pairs(leaving_out=missing[:1]))
    with pytest.raises(InputError, match=f"ObjectiveConfig.{missing[-1]}"):
        one.step(0)


def test_actions_without_a_scale_are_told(monkeypatch):
    monkeypatch.setattr(Pairs, "action_std", None)
    with pytest.raises(InputError, match=r"ObjectiveConfig\.actions"):
        stage(EVERY_TERM)
    stage(AC3)


def test_words_need_a_loader_that_gives_them_and_an_objective_that_can_hear():
    sizes = small_config(decoder="pixel", words=True, word_hashes=11)
    alone = replace(AC3, objective="genie")
    stage(alone, sizes).step(0)
    with pytest.raises(InputError, match=r"TokenizerConfig\.words"):
        stage(alone, sizes, loader=Pairs(leaving_out=["words"])).step(0)
    with pytest.raises(InputError, match=r"TokenizerConfig\.words"):
        stage(AC3, sizes)


def test_ac3_with_features_and_the_change_of_pixels_is_told():
    with pytest.raises(InputError, match="change"):
        stage(AC3, small_config(decoder="feature", backbone=FROZEN))


UNIVLA = {"decoder": "feature", "change": "features", "backbone": FROZEN}


def test_a_second_stage_takes_over_a_first_one_of_its_sizes_alone():
    alone = replace(AC3, objective="univla", painted=0.0)
    first = stage(alone, small_config(**UNIVLA, words=True, word_hashes=11))
    first.step(0)
    second = stage(alone, small_config(**UNIVLA, given_tokens=TOKENS), learning_rate=0.1, warmup=1)
    second.begin_from(first.tokenizer)
    before = {k: v.clone() for k, v in second.state().items()}
    for step in range(2):
        second.step(step)
    after = second.state()
    assert torch.equal(after["tokenizer.encoder.given"], first.tokenizer.encoder.action_tokens)
    frozen = [k for k in after if "given" in k or "backbone" in k]
    assert len(frozen) > 7 and all(torch.equal(after[k], before[k]) for k in frozen)
    other = replace(small_config().quantizer, num_codes=5)
    with pytest.raises(InputError, match="first stage"):
        second.begin_from(LatentActionTokenizer(small_config(**UNIVLA, quantizer=other)))


def test_a_second_stage_without_a_first_is_refused(tmp_path):
    config = TokenizerTraining(tokenizer=small_config(**UNIVLA, given_tokens=TOKENS))
    with pytest.raises(InputError, match="first stage"):
        train_tokenizer(config, Pairs(), tmp_path)


def test_another_tokenizers_backbone_is_taken_frozen():
    torch.manual_seed(9)
    other = LatentActionTokenizer(small_config())
    one = stage(AC3, small_config(backbone=FROZEN))
    one.take_backbone(other)
    one.step(0)
    assert torch.equal(one.tokenizer.backbone.mix.weight, other.backbone.mix.weight)
    for backbone in (BackboneConfig(width=24), BackboneConfig(width=16, trainable=False)):
        with pytest.raises(InputError, match="--backbone"):
            stage(AC3, small_config(backbone=backbone)).take_backbone(other)


@pytest.mark.parametrize(("groups", "batch_size", "expected"), [(2, 6, 2), (2, 5, 1), (3, 6, 3), (4, 6, 1)])
def test_groups_that_the_batch_cannot_be_cut_in_become_one_per_process(groups, batch_size, expected):
    assert grouped(replace(AC3, groups=groups), batch_size).groups == expected
