"""From rows, seeds and numbers of demonstrations to the commands of the policy table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cyclemimic.errors import InputError
from cyclemimic.recipes.adapting import SCRATCH_RATES, finetune_steps, scratch_steps
from cyclemimic.recipes.commands import Made
from cyclemimic.recipes.planning_policy import PolicyCommands
from cyclemimic.recipes.policy_rows import PolicyRow
from cyclemimic.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PolicyCellPlan:
    """One cell to be: the row, the seed, the demonstrations of each skill, and where its episodes will lie.

    Args:
        rates: those among which the rate was chosen; none for a row that keeps the recipe's.
    """

    row: PolicyRow
    seed: int
    per_skill: int
    rollouts: Made
    rates: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Of everything that decides its numbers but the code."""
        return self.rollouts.key

    @property
    def ends(self) -> tuple[str, ...]:
        """The commands after which it can be written down."""
        return (self.rollouts.name,)

    @property
    def file_row(self) -> str:
        """What its file is called after."""
        return f"policy-{self.row.name}-{self.per_skill}"


@dataclass(kw_only=True)
class PolicyTablePlanner(PolicyCommands):
    """Collects the commands of the cells that are asked for."""

    def cell(self, row: PolicyRow, seed: int, per_skill: int) -> PolicyCellPlan:
        """Plan one cell; what an earlier one makes too is not planned again."""
        self.size = replace(self.size, per_skill=per_skill)
        recipe, says = row.recipe(self.base), f"{row.name}, {per_skill} per skill"
        if row.start == "nothing":
            rivals = [self._scratch(row, seed, says, recipe, rate) for rate in SCRATCH_RATES]
            rollouts = self.rollouts(seed, says, rivals[0], rivals[1:])
            return PolicyCellPlan(
                row=row, seed=seed, per_skill=per_skill, rollouts=rollouts, rates=SCRATCH_RATES
            )  # fmt: skip
        begun, known = self._begun(row, seed, recipe)
        policy = self.policy(
            seed, says, row.recipe_name(self.recipe_name), recipe.finetune,
            steps=self.steps(finetune_steps(recipe.finetune.optim.steps, per_skill)), known=known, begun=begun,
        )  # fmt: skip
        return PolicyCellPlan(row=row, seed=seed, per_skill=per_skill, rollouts=self.rollouts(seed, says, policy))

    def _scratch(self, row: PolicyRow, seed: int, says: str, recipe: Recipe, rate: float) -> Made:
        steps = self.steps(scratch_steps(recipe, self.size.per_skill))
        return self.policy(
            seed, says, row.recipe_name(self.recipe_name), recipe.finetune, steps=steps, rate=rate
        )  # fmt: skip

    def _begun(self, row: PolicyRow, seed: int, recipe: Recipe) -> tuple[Made, Made | None]:
        """What fine-tuning begins from, and labels of the demonstrations that mean the same."""
        film, name = self.film(seed), row.recipe_name(self.recipe_name)
        only = self.others() if row.others else ()
        if row.start == "true actions":
            return self.true_actions(seed, name, recipe.finetune, film, only, state=row.state), None
        shown = self.demonstrations(seed)
        if row.start == "true motion":
            video = self.true_labels(seed, "video", film, only=only)
            known = self.true_labels(seed, "the demonstrations", shown, video)
        else:
            assert row.tokenizer is not None
            tokenizer = self.tokenizer(row.tokenizer, seed, only)
            source = f"folder:{film.folder}/video"
            video = self.labels(seed, row.name, "video", tokenizer, film, source, 20.0, only)
            known = self.labels(seed, row.name, "the demonstrations", tokenizer, shown, f"film:{shown.folder}", 8.0)
        return self.pretrained(seed, row.name, name, recipe.pretrain, film, video, state=row.state), known

    def others(self) -> tuple[str, ...]:
        """The filmed bodies but the one that acts. InputError where there is none."""
        found = tuple(body for body in self.body_names if body != self.size.acting_body)
        if not found:
            raise InputError(
                "--bodies", expected="a body beside the one that acts", got=", ".join(self.body_names),
                remedy="Film others too, or leave the rows of other bodies out.",
            )  # fmt: skip
        return found
