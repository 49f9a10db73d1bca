"""What a recipe is, and how one is found by name, inside the package or outside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from cyclemimic.errors import InputError
from cyclemimic.names import named
from cyclemimic.recipes.objectives import as_lapa
from cyclemimic.tokenizer.objective import Ramp
from cyclemimic.train.stage1_tokenizer import TokenizerTraining
from cyclemimic.train.stage2_pretrain import PretrainConfig
from cyclemimic.train.stage3_finetune import FinetuneConfig

RecipeObjective = Literal["trunk", "genie", "lapa", "univla", "ac3"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One scale of the whole journey.

    Args:
        trunk: a tokenizer by reconstruction alone, from which both objectives branch off.
        genie: the control's branch.
        ac3: our branch; equal to `genie` but for the objective.
        pretrain: latent policy on labelled video.
        finetune: actions on a few demonstrations.
        world: where `ablate` films and lets policies act; `film` is told by name.
        episodes: of them `ablate` films so many per body and skill, for each seed, unless told otherwise.
    """

    trunk: TokenizerTraining
    genie: TokenizerTraining
    ac3: TokenizerTraining
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    world: str = "arms"
    episodes: int = 40

    def in_one_run(self, objective: RecipeObjective) -> TokenizerTraining:
        """Trunk and branch as one run from random weights: AC3 comes as late and as gently as behind a trunk.

        `lapa` and `univla` take as many steps; `univla` is given as a whole and cut in two stages when it is run.
        """
        if objective == "trunk":
            return self.trunk
        if objective in ("lapa", "univla"):
            alone = self.in_one_run("genie")
            if objective == "lapa":
                return as_lapa(alone)
            return replace(alone, objective=replace(alone.objective, objective="univla"))
        branch: TokenizerTraining = getattr(self, objective)
        steps = self.trunk.steps + branch.steps

        def shifted(ramp: Ramp) -> Ramp:
            start = (self.trunk.steps + ramp.start * branch.steps) / steps
            return replace(ramp, start=start, length=ramp.length * branch.steps / steps)

        terms = branch.objective
        terms = replace(terms, cycle=shifted(terms.cycle), realism=shifted(terms.realism))
        return replace(
            self.trunk,
            objective=terms,
            discriminator=branch.discriminator,
            buffer_batches=branch.buffer_batches,
            action_share=branch.action_share,
            steps=steps,
            final_learning_rate=branch.final_learning_rate,
        )


def find_recipe(name: str, table: dict[str, Callable[[], Recipe]]) -> Recipe:
    """The recipe of that name in `table`, or what `package.module:function` returns.

    Raises:
        InputError: there is no such recipe.
    """
    found = named("--recipe", name, table)()
    if not isinstance(found, Recipe):
        raise InputError(
            "--recipe",
            expected="a function that returns a Recipe",
            got=type(found).__name__,
            remedy="See recipes/tiny.py.",
        )
    return found
