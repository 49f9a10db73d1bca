"""`cyclemimic ablate --table policy`: does a policy gain by latent actions, and what holds it back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import Split
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.evaluate.policy_cells import PolicyCell, policy_results
from cyclemimic.evaluate.records import load_rollouts
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.recipes.acting import CHOICE
from cyclemimic.recipes.commands import StudySize
from cyclemimic.recipes.planning import QUARTER
from cyclemimic.recipes.planning_policy_table import PolicyCellPlan, PolicyTablePlanner
from cyclemimic.recipes.policy_pages import write_policy_pages
from cyclemimic.recipes.policy_rows import PolicyRow, PolicyTable
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.study import Study, require_positive
from cyclemimic.store.atomic import read_json, write_json


@dataclass(kw_only=True)
class PolicyStudy(Study[PolicyTable, PolicyRow, PolicyTablePlanner, PolicyCellPlan, PolicyCell]):
    """The policy table. Its rows are fixed beforehand, so that all of them may stand on the test split.

    Args:
        per_skill: numbers of demonstrations of each skill.
    """

    per_skill: tuple[int, ...] = ()

    def check(self) -> None:
        """Each number of demonstrations once, and above 0."""
        for count in self.per_skill:
            require_positive(per_skill=count)
        if len(set(self.per_skill)) < len(self.per_skill):
            got = " ".join(map(str, self.per_skill))
            raise InputError("--per-skill", expected="each number once", got=got, remedy="Remove the double.")

    def commands_anew(self) -> PolicyTablePlanner:
        """A planner of nothing."""
        return PolicyTablePlanner(**self.for_commands())

    def planned(self, commands: PolicyTablePlanner) -> list[PolicyCellPlan]:
        """Few demonstrations first, where most is to be gained."""
        return [commands.cell(row, seed, n) for n in self.per_skill for seed in self.seeds for row in self.rows]

    def planned_again(self, commands: PolicyTablePlanner, plan: PolicyCellPlan) -> PolicyCellPlan:
        """See `Study.planned_again`."""
        return commands.cell(plan.row, plan.seed, plan.per_skill)

    def measured(self, plan: PolicyCellPlan) -> PolicyCell:
        """Every start's outcome, and how the rate was chosen."""
        result = load_rollouts(plan.rollouts.folder, "rollouts-as-it-is")
        rates, rate = {}, None
        if plan.rates:
            choice = read_json(plan.rollouts.folder / CHOICE)
            rates = {f"{r:g}": float(run["rate"]) for r, run in zip(plan.rates, choice["runs"], strict=True)}
            rate = plan.rates[int(choice["chosen"])]
        row = {name: value for name, value in asdict(plan.row).items() if name not in ("name", "says")}
        machine = this_machine()
        return PolicyCell(
            row=plan.row.name,
            seed=plan.seed,
            per_skill=plan.per_skill,
            scale=self.scale,
            split=self.split,
            key=plan.key,
            share=self.share,
            success=result.row(),
            skills=result.per_skill(),
            solved="".join("1" if outcome.success else "0" for outcome in result.outcomes),
            rates=rates,
            rate=rate,
            configuration={**row, "size": asdict(replace(self.size, per_skill=plan.per_skill))},
            cpu=machine.cpu,
            commit=machine.commit,
        )

    def cells(self) -> dict[tuple[str, int], list[PolicyCell]]:
        """What is measured, by row and number of demonstrations."""
        found: dict[tuple[str, int], list[PolicyCell]] = {(r.name, n): [] for r in self.rows for n in self.per_skill}
        for plan in self.plans:
            if self.path_of(plan).exists():
                found[plan.row.name, plan.per_skill].append(PolicyCell.load(self.path_of(plan)))
        return found

    def beside(self) -> dict[str, tuple[str, ...]]:
        """What each row is compared with."""
        common = (self.table.control, self.table.genie)
        return {row.name: tuple(dict.fromkeys((*common, *([row.beside] if row.beside else [])))) for row in self.rows}

    def write_result(self, looks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """By row and number of demonstrations: means, intervals, and every comparison."""
        cells = self.cells()
        rows: dict[str, dict[str, Any]] = {}
        for (row, per_skill), found in policy_results(cells, self.beside()).items():
            rows.setdefault(row, {})[str(per_skill)] = asdict(found)
        whole = {
            **self.result_facts(looks),
            "per_skill": list(self.per_skill),
            "seeds": len(self.seeds),
            "rows": rows,
            "commits": sorted({cell.commit or "unknown" for some in cells.values() for cell in some}),
        }
        plain: dict[str, Any] = null_for_nan(whole)
        write_json(self.result, plain)
        return plain

    def write_pages(self, result: Mapping[str, Any]) -> None:
        """A table for each number of demonstrations."""
        cells = self.cells()
        results = policy_results(cells, self.beside())
        write_policy_pages(self.results / self.name, self.table, self.rows, self.per_skill, cells, results, result)


def policy_study_of(
    table: PolicyTable,
    *,
    recipe_name: str,
    base: Recipe,
    rows: Sequence[str],
    seeds: int | None,
    split: Split,
    quarter: bool,
    ours: str | None,
    per_skill: Sequence[int],
    size: StudySize,
    run: Path,
    results: Path,
    log: Path,
    cache: Path,
    lanes: int,
    budget_minutes: float | None,
    device: str | None,
    precision: Literal["fp32", "bf16"] | None = None,
) -> PolicyStudy:
    """A study from what a command line says.

    Raises:
        InputError: rows, seeds, lanes or demonstrations that cannot be.
    """
    require_positive(seeds=seeds, lanes=lanes, budget_minutes=budget_minutes)
    wanted = table.chosen(rows)
    names = [row.name for row in wanted]
    return PolicyStudy(
        table=table,
        recipe_name=recipe_name,
        base=base,
        rows=wanted,
        ours=ours or (table.ours if table.ours in names else names[-1]),
        seeds=tuple(range(seeds if seeds is not None else 2 if quarter else table.seeds)),
        split=split,
        share=QUARTER if quarter else 1.0,
        size=size,
        per_skill=tuple(per_skill) or table.per_skill,
        run=run,
        results=results,
        log=log,
        cache=cache,
        lanes=lanes,
        budget_s=None if budget_minutes is None else 60 * budget_minutes,
        device=device,
        precision=precision,
    )
