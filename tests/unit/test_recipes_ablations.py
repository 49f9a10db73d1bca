"""Each row differs from the tiny recipe in what its name says, and in nothing else."""

from dataclasses import asdict

import pytest

from cyclemimic.cli import the_recipe
from cyclemimic.recipes.tiny import tiny
from cyclemimic.store.atomic import sha256_json
from cyclemimic.train.checkpoint import dotted

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
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_what_its_name_says(name):
    row, plain = (dotted(asdict(r)) for r in (the_recipe(f"cyclemimic.recipes.ablations:{name}"), tiny()))
    assert {key for key in plain if sha256_json([row[key]]) != sha256_json([plain[key]])} == ROWS[name]
