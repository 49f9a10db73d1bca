"""The scale of a laptop: two CPU cores, minutes. 32 px for the tokenizer, 64 px for the policy."""

from __future__ import annotations

from dataclasses import replace

from cyclemimic.recipes.recipe import Recipe
from cyclemimic.tokenizer.objective import ObjectiveConfig
from cyclemimic.tokenizer.tokenizer import TokenizerConfig
from cyclemimic.train.stage1_tokenizer import TokenizerTraining
from cyclemimic.train.stage2_pretrain import PretrainConfig
from cyclemimic.train.stage3_finetune import FinetuneConfig
from cyclemimic.train.trainee import OptimConfig

TRUNK_STEPS = 1500
BRANCH_STEPS = 600


def tiny() -> Recipe:
    """The recipe of `make demo`."""
    # Matches and not the change of pixels: codes then mean the same on every body (docs/log.md).
    tokenizer = TokenizerConfig(change="matches")
    trunk = TokenizerTraining(
        tokenizer=tokenizer, objective=ObjectiveConfig(objective="genie"), steps=TRUNK_STEPS, final_learning_rate=0.5
    )
    branch = replace(
        trunk,
        steps=BRANCH_STEPS,
        first_batch=TRUNK_STEPS,
        learning_rate=1e-3,
        final_learning_rate=0.05,
        warmup=20,
    )
    return Recipe(
        trunk=trunk,
        genie=branch,
        ac3=replace(branch, objective=ObjectiveConfig(objective="ac3")),
        pretrain=PretrainConfig(optim=OptimConfig(steps=3000)),
        finetune=FinetuneConfig(optim=OptimConfig(steps=600)),
    )
