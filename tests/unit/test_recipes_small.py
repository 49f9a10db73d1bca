"""The recipe of one GPU: every row of every table has a checkpoint that a slice can carry, and a batch that fits."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from cyclemimic import cli
from cyclemimic.nn.pretrained import PretrainedBackbone
from cyclemimic.nn.vit_families import ARCHITECTURES
from cyclemimic.recipes.dry_run import NoisePairs, checkpoint_bytes, one_step
from cyclemimic.recipes.objectives import univla_stages, with_backbone
from cyclemimic.recipes.small import CHECKPOINT_MB, SIZE_PX, small
from cyclemimic.recipes.stations import make_world
from cyclemimic.recipes.tables import TABLES
from cyclemimic.recipes.tiny import tiny
from cyclemimic.train.checkpoint import save_checkpoint
from cyclemimic.train.stage1_tokenizer import TokenizerStage
from cyclemimic.train.stage2_pretrain import PretrainConfig
from tests.journey.small import recipe

ROWS = {f"{table.name}/{row.name}": row for table in TABLES.values() for row in table.rows}


def trainings(row):
    """The trainings of a row, from its trunk to its last run, as `ablate` begins them."""
    last = row.training(small(), 1.0)
    first = [row.recipe(small()).trunk] if row.begin == "trunk" else []
    if row.begin == "features":
        frozen = replace(last.tokenizer.backbone, trainable=False)
        last = replace(last, tokenizer=replace(last.tokenizer, backbone=frozen))
    return [*first, *(univla_stages(last) if last.objective.objective == "univla" else [last])]


@cache
def counted(training):
    return checkpoint_bytes(training)


@pytest.mark.parametrize("name", ROWS)
def test_the_checkpoint_of_every_row_is_small_enough(name):
    for training in trainings(ROWS[name]):
        # Many rows hold the same tensors: steps and rates are in none of them.
        alike = replace(training, steps=1, first_batch=0, learning_rate=1.0, warmup=1, final_learning_rate=1.0)
        terms = replace(alike.objective, cycle=small().ac3.objective.cycle, ac3=small().ac3.objective.ac3)
        assert 1e6 < counted(replace(alike, objective=terms)) <= CHECKPOINT_MB * 1e6


def test_a_checkpoint_is_counted_to_the_byte(tmp_path):
    config = recipe().ac3
    stage = TokenizerStage(config, NoisePairs(size_px=config.tokenizer.size_px, batch_size=config.batch_size))
    wanted = checkpoint_bytes(config)
    assert sum(t.nbytes for t in stage.state().values()) < wanted, "an optimizer has no moments yet"
    stage.step(config.steps - 1)  # every term is on
    assert sum(t.nbytes for t in stage.state().values()) == wanted
    path = save_checkpoint(tmp_path, 1, stage.state()) / "state.safetensors"
    assert wanted < path.stat().st_size < wanted + 200 * len(stage.state()), "beside the tensors, names and places"


def test_a_frozen_backbone_is_in_no_checkpoint():
    config = with_backbone(small().ac3, "facebook/dinov2-small")
    assert config.tokenizer.backbone.input_px == 224 and config.tokenizer.change == "features"
    assert checkpoint_bytes(config) < checkpoint_bytes(small().ac3)


def test_the_policys_checkpoints_are_no_larger_than_tinys():
    """Its network is tiny's: 10 MB of weights, moments and average (`make demo`)."""
    assert small().pretrain.network == tiny().pretrain.network == PretrainConfig().network
    assert small().finetune.network == tiny().finetune.network


def test_the_recipe_lies_between_tiny_and_paper():
    assert tiny().ac3.tokenizer.size_px < SIZE_PX < 224
    assert 2 * checkpoint_bytes(tiny().ac3) < checkpoint_bytes(small().ac3)
    assert small().genie == replace(small().ac3, objective=small().genie.objective)
    assert small().ac3.first_batch == small().trunk.steps


def test_its_world_is_the_arms_filmed_larger():
    world = make_world(small().world)
    assert world.name == "arms" and world.camera.width_px == 2 * SIZE_PX


def test_the_small_dinov2_is_known_without_a_network():

    with torch.device("meta"):
        backbone = PretrainedBackbone.random(ARCHITECTURES["facebook/dinov2-small"], input_px=224)
    assert sum(p.numel() for p in backbone.parameters()) == 22_056_576
    assert (backbone.width, backbone.grid_for(SIZE_PX)) == (384, (16, 16))


def test_what_is_kept_for_the_gradient_grows_with_the_batch_alone():
    few, many = (one_step(recipe().ac3, pairs=pairs) for pairs in (4, 8))
    assert 1.8 < many.kept_bytes / few.kept_bytes < 2.05, "weights and what does not grow are left out"
    assert "MB a pair" in few.text() and f"{recipe().ac3.batch_size} pairs" in few.text()


def test_a_step_of_the_recipe_leaves_most_of_16_gb_free():
    config = small().ac3
    kept = one_step(replace(config, batch_size=4), pairs=4).kept_bytes / 4 * config.batch_size
    assert 1e9 < kept + 2 * checkpoint_bytes(config) < 8e9


def test_the_command_rehearses_it_with_a_backbone(tmp_path, capsys):
    words = ["tokenizer", "--source", "none", "--run", str(tmp_path / "run"), "--recipe", "small"]
    cli.main([*words, "--dry-run", "sizes"])
    said = capsys.readouterr().out
    assert "GFLOP" in said and "a checkpoint: 12.7 MB" in said
    cli.main([*words, "--backbone", "facebook/dinov2-small", "--dry-run", "sizes"])
    assert "22.057" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_study_of_it_films_its_world_and_asks_for_its_precision(tmp_path, capsys):
    where = ["--run", str(tmp_path / "run"), "--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    words = ["ablate", "--table", "objective", "--recipe", "small", "--seeds", "1", "--rows", "ac3", "--dry-run"]
    keys = []
    for more in ([], ["--precision", "bf16"], ["--precision", "fp32", "--device", "cpu"]):
        cli.main([*words, *where, *more])
        keys.append(capsys.readouterr().out.split("the log's line: ")[1])
    assert keys[0] == keys[1] != keys[2], "another precision gives other numbers, another device does not"
