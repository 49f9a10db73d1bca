"""Each row differs from the tiny recipe in what its name says, and in nothing else."""

from dataclasses import asdict, replace

import pytest
import torch

from cyclemimic.cli.choices import the_recipe
from cyclemimic.errors import InputError
from cyclemimic.nn.vision import BackboneConfig
from cyclemimic.recipes import ablations
from cyclemimic.recipes.objectives import univla_stages
from cyclemimic.recipes.tables import TABLES
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import sha256_json
from cyclemimic.train.checkpoint import dotted
from cyclemimic.train.stage1_tokenizer import TokenizerStage
from tests.paper.small import BATCH, FROZEN, small_config
from tests.unit.test_stage1 import CRITIC, Pairs

TERMS = ("composition", "reversal", "flow", "reader", "adversary", "actions")
PARTS = ("trunk", "genie", "ac3")


def everywhere(*sizes):
    return {f"{part}.tokenizer.{size}" for part in PARTS for size in sizes}


ROWS = {
    "latent_decoding": {"finetune.network.head.kind"},
    "discrete_decoding": {"finetune.network.head.kind"},
    "codes_only": {"pretrain.hindsight_weight"},
    "end_only": {"pretrain.latent_weight", "pretrain.readout_weight"},
    "state_target": {"pretrain.moving_weight"},
    "keypoint": {
        f"{stage}.{part}" for stage in ("pretrain", "finetune") for part in ("moving_weight", "network.head.keypoint")
    },
    "proprioception_dropout": {"finetune.proprioception_dropout"},
    "ac3_all_gradient": {"ac3.objective.cycle.weight", "ac3.objective.ac3.gradient_into_decoder"},
    "ac3_gentle_cycle": {
        "ac3.objective.cycle.weight",
        "ac3.objective.realism.weight",
        "ac3.objective.ac3.gradient_into_decoder",
    },
    "cycle_quarter": {"ac3.objective.cycle.weight"},
    "cycle_tenth": {"ac3.objective.cycle.weight"},
    **{f"term_{t}": {f"ac3.objective.{t}"} for t in TERMS},
    "term_motion": {"ac3.objective.motion_weight"},
    **{f"ac3_{lever}": {f"ac3.objective.ac3.{lever}"} for lever in ("other_body", "inverse_frequency", "trim")},
    "critic_none": {"ac3.discriminator.kind"},
    "critic_local": {"ac3.discriminator.kind"},
    "critic_pairs": {"ac3.discriminator.judges_pairs"},
    "critic_shallow": {"ac3.discriminator.blocks"},
    "critic_deep": {"ac3.discriminator.blocks"},
    "buffer_1": {"ac3.buffer_batches"},
    "buffer_16": {"ac3.buffer_batches"},
    **{f"route_{share}": {"ac3.objective.ac3.gradient_into_decoder"} for share in ("none", "tenth", "whole")},
    **{f"codes_{size}": everywhere("quantizer.num_codes") for size in ("half", "double")},
    "readout_difference": everywhere("encoder.readout"),
    "change_alone": everywhere("encoder.later_patches"),
    "change_matches": set(),
    "change_pixels": everywhere("change"),
    "commitment_none": {f"{part}.objective.commitment" for part in PARTS},
    "quantizer_nsvq": everywhere("quantizer.kind"),
    **{f"tokens_{count}": everywhere("encoder.num_tokens") for count in (1, 4)},
    **{f"decoder_{size}": everywhere("motion.width", "pixel.width", "feature.width") for size in ("half", "double")},
    "decoder_pixel": everywhere("decoder"),
    "decoder_feature": everywhere("decoder", "change") | {f"{part}.objective.painted" for part in PARTS},
    "paper_literal": everywhere("decoder", "change", "encoder.num_tokens")
    | {f"{part}.objective.{term}" for part in ("genie", "ac3") for term in ("entropy", "painted")}
    | {f"{part}.steps" for part in PARTS}
    | {f"ac3.objective.{ramp}.{part}" for ramp in ("cycle", "realism") for part in ("start", "length")}
    | {f"ac3.objective.ac3.{dial}" for dial in ("gradient_into_decoder", "noise", "blur")}
    | {"ac3.objective.adversarial"},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_what_its_name_says(name):
    row, plain = (dotted(asdict(r)) for r in (the_recipe(f"cyclemimic.recipes.ablations:{name}"), tiny()))
    assert {key for key in plain if sha256_json([row[key]]) != sha256_json([plain[key]])} == ROWS[name]


def test_no_row_is_forgotten_here():
    assert set(ablations.CHANGES) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_the_tokenizer_of_a_row_can_be_made(name):
    """Its terms, levers and critic are ones that the stage knows; a term has its weight while the cycle runs."""
    config = the_recipe(f"tiny+{name}").ac3
    if name == "decoder_feature":
        config = replace(config, tokenizer=replace(config.tokenizer, backbone=BackboneConfig(trainable=False)))
    stage = TokenizerStage(config, Pairs(config.batch_size))
    assert (stage.critic is None) == (name == "critic_none")
    term = name.removeprefix("term_")
    if term in TERMS:
        assert 0 < config.objective.weights(0.9)[term] <= 0.1


def test_changes_add_up_and_keep_the_recipe_they_change():
    found = the_recipe("paper+term_flow+critic_pairs")
    assert found.ac3.objective.flow == 0.1 and found.ac3.discriminator.judges_pairs
    assert found.trunk == the_recipe("paper").trunk


def test_an_unknown_change_is_refused():
    with pytest.raises(InputError, match="term_flow"):
        the_recipe("tiny+term_flwo")


@pytest.mark.parametrize("name", ["critic_none", "buffer_1"])
def test_a_change_of_the_branch_holds_in_one_run_too(name):
    plain, row = the_recipe("tiny").in_one_run("ac3"), the_recipe(f"tiny+{name}").in_one_run("ac3")
    assert (row.discriminator, row.buffer_batches) != (plain.discriminator, plain.buffer_batches)
    assert row.steps == plain.steps and row.objective == plain.objective


def test_the_printed_paper_has_its_cycle_from_the_first_step_and_as_many_steps_as_ours():
    literal, ours = the_recipe("tiny+paper_literal").in_one_run("ac3"), the_recipe("tiny").in_one_run("ac3")
    assert literal.steps == ours.steps
    assert literal.objective.weights(0.0)["cycle"] == ours.objective.weights(0.99)["cycle"] > 0
    assert ours.objective.weights(0.0)["cycle"] == 0


def small_recipe():
    """The tiny recipe with nets and batches of a test."""
    recipe = tiny()
    parts = {name: getattr(recipe, name) for name in PARTS}
    small = {"tokenizer": small_config(word_hashes=11), "discriminator": CRITIC, "batch_size": BATCH}
    return replace(recipe, **{name: replace(part, **small) for name, part in parts.items()})


def trainings(row):
    """What the commands of a row train, one after the other."""
    config = row.training(small_recipe(), 1.0)
    if row.begin == "features":
        config = replace(config, tokenizer=replace(config.tokenizer, backbone=FROZEN))
    return univla_stages(config) if row.objective == "univla" else (config,)


@pytest.mark.parametrize(("table", "row"), [(t, r.name) for t, table in TABLES.items() for r in table.rows])
def test_every_row_of_every_table_takes_its_last_step(table, row):
    for config in trainings(TABLES[table].row(row)):
        stage = TokenizerStage(config, Pairs(config.batch_size))
        figures = stage.step(config.steps - 1)
        assert all(torch.isfinite(value).all() for value in figures.values())
        wanted = {name for name, weight in stage.config.objective.weights(0.999).items() if weight}
        if stage.critic is None:
            wanted.discard("discriminator")
        assert wanted <= set(figures)
