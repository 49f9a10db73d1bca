"""The controls take the recipe's data, steps, sizes and care; a frozen backbone comes from a run or by name."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.recipes.objectives import as_lapa, univla_stages, with_backbone
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import sha256_json, write_json
from cyclemimic.tokenizer.tokenizer import CONFIG, LatentActionTokenizer
from cyclemimic.train.checkpoint import dotted
from cyclemimic.train.stage1_tokenizer import TokenizerTraining, train_tokenizer
from tests.paper.small import BATCH, FROZEN, TOKENS, small_config
from tests.unit.test_stage1 import Pairs


def changed(config, other):
    one, two = dotted(asdict(config)), dotted(asdict(other))
    return {key for key in one if sha256_json([one[key]]) != sha256_json([two[key]])}


def small_training(**changes):
    return TokenizerTraining(**{"tokenizer": small_config(), "steps": 7, "batch_size": BATCH, **changes})


def test_lapa_differs_in_readout_quantiser_and_objective_alone():
    trunk = tiny().in_one_run("genie")
    assert changed(trunk, as_lapa(trunk)) == {
        "tokenizer.encoder.readout",
        "tokenizer.quantizer.kind",
        "objective.objective",
    }


@pytest.mark.parametrize("steps", [7, 8, 2100])
def test_univla_takes_the_recipes_steps_and_sees_each_batch_once(steps):
    config = small_training(steps=steps, first_batch=11)
    first, second = univla_stages(config)
    assert first.steps + second.steps == steps
    assert (first.first_batch, second.first_batch) == (11, 11 + first.steps)


def test_univla_first_hears_and_then_keeps():
    config = small_training()
    first, second = univla_stages(config)
    of_both = {"tokenizer.decoder", "tokenizer.change", "objective.objective", "objective.painted", "steps"}
    assert changed(config, first) == of_both | {"tokenizer.words"}
    assert changed(config, second) == of_both | {"tokenizer.given_tokens", "first_batch"}
    assert second.tokenizer.given_tokens == config.tokenizer.encoder.num_tokens


def test_both_stages_are_trained_on_frozen_features(tmp_path):
    config = small_training(tokenizer=small_config(backbone=FROZEN, word_hashes=11))
    first, second = univla_stages(config)
    train_tokenizer(first, Pairs(), tmp_path / "first")
    train_tokenizer(second, Pairs(leaving_out=["words"]), tmp_path / "second", trunk=tmp_path / "first")
    one, two = (LatentActionTokenizer.load(tmp_path / name) for name in ("first", "second"))
    assert torch.equal(two.encoder.given, one.encoder.action_tokens)
    assert torch.equal(two.given_quantizer.codebook, one.quantizer.codebook)
    frames = torch.rand(3, 3, two.config.size_px, two.config.size_px)
    assert two.label(frames, frames.flip(0))[0].shape == (3, TOKENS)


def test_features_that_learn_are_refused_before_the_first_step(tmp_path):
    first, _ = univla_stages(small_training())
    with pytest.raises(InputError, match="backbone"):
        train_tokenizer(first, Pairs(), tmp_path)


def test_lapa_is_trained_and_labels(tmp_path):
    train_tokenizer(as_lapa(small_training()), Pairs(), tmp_path)
    tokenizer = LatentActionTokenizer.load(tmp_path)
    frames = torch.rand(3, 3, tokenizer.config.size_px, tokenizer.config.size_px)
    assert torch.equal(tokenizer.label(frames, frames)[0], tokenizer.label(frames, frames)[0])
    np.testing.assert_allclose(tokenizer.quantizer.codebook.detach().norm(dim=-1), 1, atol=1e-5)


def test_the_backbone_of_a_run_is_taken_frozen(tmp_path):
    own = small_config()
    LatentActionTokenizer(own).save(tmp_path / "run")
    config = with_backbone(small_training(), str(tmp_path / "run"))
    assert config.tokenizer.backbone == replace(own.backbone, trainable=False)
    assert config.tokenizer.change == "pixels"
    train_tokenizer(config, Pairs(), tmp_path / "new", backbone=tmp_path / "run")
    new, old = (LatentActionTokenizer.load(tmp_path / name) for name in ("new", "run"))
    assert torch.equal(new.backbone.mix.weight, old.backbone.mix.weight)


def test_any_other_name_is_a_pretrained_backbone(tmp_path):
    (tmp_path / "no run").mkdir()
    for name in ("someone/some-model", str(tmp_path / "no run")):
        sizes = with_backbone(small_training(), name).tokenizer
        assert (sizes.backbone.kind, sizes.backbone.name, sizes.backbone.trainable) == ("pretrained", name, False)
        assert sizes.change == "features"


def test_a_backbone_from_outside_is_named_by_its_class_and_is_frozen(tmp_path):
    config = with_backbone(small_training(), "tests.paper.outside:Backbone")
    sizes = config.tokenizer
    assert (sizes.backbone.kind, sizes.backbone.name) == ("tests.paper.outside:Backbone", "")
    assert not sizes.backbone.trainable and sizes.change == "features"
    write_json(tmp_path / CONFIG, {"config": asdict(sizes)})
    assert with_backbone(small_training(), str(tmp_path)).tokenizer.backbone == sizes.backbone


def test_a_run_on_a_pretrained_backbone_names_that_backbone(tmp_path):
    sizes = with_backbone(small_training(), "someone/some-model").tokenizer
    write_json(tmp_path / CONFIG, {"config": asdict(sizes)})
    assert with_backbone(small_training(), str(tmp_path)).tokenizer.backbone == sizes.backbone
