"""`cyclemimic ablate`: a table of the paper at some scale, over several seeds, cell by cell, resumable at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import Cell, Split, row_results
from cyclemimic.evaluate.judge import Judge
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.evaluate.pilot import measure_pilot
from cyclemimic.evaluate.records import load_quality, load_rollouts
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.recipes.commands import StudySize
from cyclemimic.recipes.footage import SPLIT_SEED, cached, open_source
from cyclemimic.recipes.known_motion import known_motion
from cyclemimic.recipes.planning import QUARTER, CellPlan, Planner
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.study import Study, require_positive
from cyclemimic.recipes.table_pages import RowPicture, draw_row, write_pages
from cyclemimic.recipes.tables import CARRIED_ROWS, Row, TableSpec
from cyclemimic.store.atomic import write_json
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.loop import read_metrics
from cyclemimic.train.stage1_tokenizer import TokenizerTraining, tokenizer_facts


@dataclass(kw_only=True)
class TableStudy(Study[TableSpec, Row, Planner, CellPlan, Cell]):
    """A table of tokenizers, and where it asks for it of the policies behind them."""

    def check(self) -> None:
        """On test clips only few rows may stand."""
        if self.split == "test" and len(self.rows) > 1 + CARRIED_ROWS:
            raise InputError(
                "--rows",
                expected=f"at most {CARRIED_ROWS} rows beside the control on the test clips",
                got=f"{len(self.rows) - 1}",
                remedy="Screen on validation clips (--quarter), and carry the best.",
            )

    def commands_anew(self) -> Planner:
        """A planner of nothing."""
        return Planner(table=self.table, **self.for_commands())

    def planned(self, commands: Planner) -> list[CellPlan]:
        """Every row at every seed."""
        return [commands.cell(row, seed) for seed in self.seeds for row in self.rows]

    def planned_again(self, commands: Planner, plan: CellPlan) -> CellPlan:
        """See `Study.planned_again`."""
        return commands.cell(plan.row, plan.seed)

    def measured(self, plan: CellPlan) -> Cell:
        """Quality, and success where policies act."""
        record = load_quality(plan.quality.folder / "quality.json")
        success = None
        if plan.rollouts is not None:
            success = load_rollouts(plan.rollouts.folder, "rollouts-as-it-is").row()
        pace = [row["cpu_ms_per_sample"] for row in read_metrics(plan.tokenizer.folder)]
        training = plan.row.training(self.base, self.share)
        machine = this_machine()
        return Cell(
            row=plan.row.name,
            seed=plan.seed,
            scale=self.scale,
            split=self.split,
            key=plan.key,
            share=self.share,
            record=record,
            success=success,
            extra=self._pilot(plan) if self.table.pilot else {},
            cpu_ms_per_pair=sum(pace) / len(pace),
            inert=inert_terms(training, tokenizer_facts(plan.tokenizer.folder)["on_steps"]),
            configuration={
                **{name: value for name, value in asdict(plan.row).items() if name not in ("name", "says")},
                "steps": training.steps,
                "size": asdict(self.size),
                "acts": self.table.acts,
            },
            cpu=machine.cpu,
            commit=machine.commit,
        )

    def _pilot(self, plan: CellPlan) -> dict[str, float]:
        tokenizer = LatentActionTokenizer.load(plan.tokenizer.folder)
        source = open_source(f"film:{plan.film.folder}")
        assert isinstance(source, FilmSource)
        facts = tokenizer_facts(plan.tokenizer.folder)
        sides = known_motion(source, cached(source, tokenizer.config.size_px, self.cache), facts["gap_s"])
        held_out = sides[2] if self.split == "test" else sides[1]
        return measure_pilot(tokenizer, held_out, Judge.load(plan.judge), seed=SPLIT_SEED, bodies=facts["bodies"])

    def cells(self) -> dict[str, list[Cell]]:
        """What is measured, by row, in the order of the seeds."""
        found: dict[str, list[Cell]] = {row.name: [] for row in self.rows}
        for plan in self.plans:
            if self.path_of(plan).exists():
                found[plan.row.name].append(Cell.load(self.path_of(plan)))
        return found

    def write_result(self, looks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """Means over seeds, and `ours` against the control."""
        cells = self.cells()
        rows = row_results(cells, self.table.control)
        whole = {
            **self.result_facts(looks),
            "seeds": len({cell.seed for cell in cells[self.ours]} & {c.seed for c in cells[self.table.control]}),
            "paired": asdict(rows[self.ours])["paired"],
            "rows": {name: asdict(row) for name, row in rows.items()},
            "commits": sorted({cell.commit or "unknown" for some in cells.values() for cell in some}),
        }
        plain: dict[str, Any] = null_for_nan(whole)
        write_json(self.result, plain)
        return plain

    def write_pages(self, result: Mapping[str, Any]) -> None:
        """Tables, and a picture of every row."""
        pictures = [found for row in self.rows if (found := self._picture(row)) is not None]
        write_pages(self.results / self.name, self.table, self.rows, self.cells(), result, pictures)

    def _picture(self, row: Row) -> RowPicture | None:
        """The row's transfers at its first seed, where its weights are still here."""
        for plan in self.plans:
            if plan.row.name == row.name and self.path_of(plan).exists():
                png = self.run / "pictures" / f"{self.split}-{plan.tokenizer.key}.png"
                if not png.exists() and not (plan.tokenizer.folder / "tokenizer.json").exists():
                    return None
                return draw_row(row, plan, png, split=self.split, cache=self.cache)
        return None


def inert_terms(training: TokenizerTraining, on_steps: Mapping[str, int]) -> tuple[str, ...]:
    """Terms of AC3 that have a weight and never counted."""
    terms = training.objective
    if terms.objective != "ac3":
        return ()
    wanted = {"cycle": terms.cycle.weight, "discriminator": terms.realism.weight}
    if training.discriminator.kind == "none":
        del wanted["discriminator"]
    return tuple(name for name, weight in wanted.items() if weight and not on_steps[name])


def study_of(
    table: TableSpec,
    *,
    recipe_name: str,
    base: Recipe,
    rows: Sequence[str],
    seeds: int | None,
    split: Split,
    quarter: bool,
    ours: str | None,
    latent_only: bool,
    size: StudySize,
    run: Path,
    results: Path,
    log: Path,
    cache: Path,
    lanes: int,
    budget_minutes: float | None,
    device: str | None,
    precision: Literal["fp32", "bf16"] | None = None,
) -> TableStudy:
    """A study from what a command line says.

    Raises:
        InputError: rows, seeds or lanes that cannot be.
    """
    require_positive(seeds=seeds, lanes=lanes, budget_minutes=budget_minutes)
    if latent_only:
        table = replace(table, acts=False)
    wanted = table.chosen(rows)
    names = [row.name for row in wanted]
    return TableStudy(
        table=table,
        recipe_name=recipe_name,
        base=base,
        rows=wanted,
        ours=ours or (table.ours if table.ours in names else names[-1]),
        seeds=tuple(range(seeds if seeds is not None else 2 if quarter else 5)),
        split=split,
        share=QUARTER if quarter else 1.0,
        size=size,
        run=run,
        results=results,
        log=log,
        cache=cache,
        lanes=lanes,
        budget_s=None if budget_minutes is None else 60 * budget_minutes,
        device=device,
        precision=precision,
    )
