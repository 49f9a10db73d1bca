"""How a policy is fine-tuned and what it is compared with: the demo and the tables do it alike."""

from __future__ import annotations

from cyclemimic.recipes.recipe import Recipe

SKILLS = ("reach", "push_left", "push_right", "push_forward", "push_back")
# A policy without latent pre-training has no rate of its own in a recipe. Of these the tables choose for each seed; in
# the demo the last was best (docs/log.md). The pre-trained policies keep the recipe's 1e-3.
SCRATCH_RATES = (3e-4, 1e-3, 2e-3)
SCRATCH_RATE = 2e-3
MANY = 20  # demonstrations per skill from which on a policy learns for longer


def finetune_steps(steps: int, per_skill: int) -> int:
    """Of a recipe's steps, those for so many demonstrations per skill."""
    return steps * 4 // 3 if per_skill >= MANY else steps


def scratch_steps(recipe: Recipe, per_skill: int) -> int:
    """As many steps as pre-training and fine-tuning together, so that a control sees as many updates."""
    return recipe.pretrain.optim.steps + finetune_steps(recipe.finetune.optim.steps, per_skill)
