"""From rows and seeds of a paper's table to commands: what each cell needs, shared where two cells need the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclemimic.recipes.commands import Made
from cyclemimic.recipes.planning_policy import PolicyCommands
from cyclemimic.recipes.tables import Row, TableSpec
from cyclemimic.store.atomic import sha256_json

QUARTER = 0.25


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """One cell to be: the row, the seed, its key, and what will have been made for it."""

    row: Row
    seed: int
    key: str
    film: Made
    judge: Path
    tokenizer: Made
    quality: Made
    rollouts: Made | None

    @property
    def ends(self) -> tuple[str, ...]:
        """The jobs after which it can be written down."""
        return (self.quality.name, *([self.rollouts.name] if self.rollouts else []))

    @property
    def file_row(self) -> str:
        """What its file is called after."""
        return self.row.name


@dataclass(kw_only=True)
class Planner(PolicyCommands):
    """Collects the commands of the cells that are asked for."""

    table: TableSpec

    def cell(self, row: Row, seed: int) -> CellPlan:
        """Plan one cell; what an earlier one makes too is not planned again."""
        film = self.film(seed)
        tokenizer = self.tokenizer(row, seed)
        recipe = row.recipe(self.base)
        judge = self.run / f"judge-{sha256_json([film.key, recipe.trunk.tokenizer.size_px])[:12]}"
        quality = self.quality(row, seed, tokenizer, film, judge)
        rollouts = self._acting(row, seed, tokenizer, film) if self.table.acts else None
        ends = [quality.key, rollouts.key if rollouts else None, "pilot" if self.table.pilot else None]
        return CellPlan(
            row=row,
            seed=seed,
            key=sha256_json(ends)[:12],
            film=film,
            judge=judge,
            tokenizer=tokenizer,
            quality=quality,
            rollouts=rollouts,
        )

    def _acting(self, row: Row, seed: int, tokenizer: Made, film: Made) -> Made:
        recipe, name = row.recipe(self.base), row.recipe_name(self.recipe_name)
        shown = self.demonstrations(seed)
        video = self.labels(seed, row.name, "all video", tokenizer, film, f"folder:{film.folder}/video", 20.0)
        known = self.labels(seed, row.name, "the demonstrations", tokenizer, shown, f"film:{shown.folder}", 8.0)
        pretrained = self.pretrained(seed, row.name, name, recipe.pretrain, film, video)
        policy = self.policy(
            seed, row.name, name, recipe.finetune, steps=self.steps(recipe.finetune.optim.steps),
            known=known, begun=pretrained,
        )  # fmt: skip
        return self.rollouts(seed, row.name, policy)
