"""Each row differs from the tiny recipe in what its name says, and in nothing else."""

from dataclasses import asdict

import pytest

from cyclemimic.cli import the_recipe
from cyclemimic.recipes import ablations
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import sha256_json
from cyclemimic.train.checkpoint import dotted
from cyclemimic.train.stage1_tokenizer import TokenizerStage
from tests.unit.test_stage1 import Pairs

TERMS = ("composition", "reversal", "flow", "reader", "adversary", "actions")
ROWS = {
    "latent_decoding": {"finetune.network.head.kind"},
    "discrete_decoding": {"finetune.network.head.kind"},
    "codes_only": {"pretrain.hindsight_weight"},
    "end_only": {"pretrain.latent_weight", "pretrain.readout_weight"},
    "ac3_all_gradient": {"ac3.objective.cycle.weight", "ac3.objective.ac3.gradient_into_decoder"},
    "ac3_gentle_cycle": {
        "ac3.objective.cycle.weight",
        "ac3.objective.realism.weight",
        "ac3.objective.ac3.gradient_into_decoder",
    },
    **{f"term_{t}": {f"ac3.objective.{t}"} for t in TERMS},
    "term_motion": {"ac3.objective.motion_weight"},
    **{f"ac3_{lever}": {f"ac3.objective.ac3.{lever}"} for lever in ("other_body", "inverse_frequency", "trim")},
    "critic_none": {"ac3.discriminator.kind"},
    "critic_local": {"ac3.discriminator.kind"},
    "critic_pairs": {"ac3.discriminator.judges_pairs"},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_what_its_name_says(name):
    row, plain = (dotted(asdict(r)) for r in (the_recipe(f"cyclemimic.recipes.ablations:{name}"), tiny()))
    assert {key for key in plain if sha256_json([row[key]]) != sha256_json([plain[key]])} == ROWS[name]


def test_no_row_is_forgotten_here():
    rows = {name for name, row in vars(ablations).items() if callable(row) and row.__module__ == ablations.__name__}
    assert {name for name in rows if not name.startswith("_")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_the_tokenizer_of_a_row_can_be_made(name):
    """Its terms, levers and critic are ones that the stage knows; a term has its weight while the cycle runs."""
    config = the_recipe(f"cyclemimic.recipes.ablations:{name}").ac3
    stage = TokenizerStage(config, Pairs(config.batch_size))
    assert (stage.critic is None) == (name == "critic_none")
    term = name.removeprefix("term_")
    if term in TERMS:
        assert 0 < config.objective.weights(0.9)[term] <= 0.1
