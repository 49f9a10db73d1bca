"""`cyclemimic ablate`: a table of the paper at some scale, over several seeds, cell by cell, resumable at any time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import Cell, Split, cell_name, row_results
from cyclemimic.evaluate.judge import Judge
from cyclemimic.evaluate.pages import this_machine
from cyclemimic.evaluate.pilot import measure_pilot
from cyclemimic.evaluate.records import load_quality, load_rollouts
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.recipes.footage import SPLIT_SEED, cached, chosen, open_source
from cyclemimic.recipes.jobs import Jobs
from cyclemimic.recipes.judging import known_motion
from cyclemimic.recipes.planning import QUARTER, CellPlan, Planner, StudySize, needed
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.stations import make_world
from cyclemimic.recipes.table_pages import RowPicture, draw_row, write_pages
from cyclemimic.recipes.tables import CARRIED_ROWS, Row, TableSpec
from cyclemimic.store.atomic import alone_in, read_json, sha256_json, write_json
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.endings import RunInterruptedError
from cyclemimic.train.loop import read_metrics
from cyclemimic.train.progress import duration
from cyclemimic.train.stage1_tokenizer import TokenizerTraining, tokenizer_facts

CELLS = "cells"


@dataclass(kw_only=True)
class Study:
    """One table, its rows and seeds: what is measured, what is left, and what it says.

    Args:
        recipe_name: for `--recipe`; its last word names the scale.
        rows: those to run, the control first.
        ours: the row that the result file compares with the control.
        share: of the recipe's steps; below 1 this is a screening.
        run: folder for films, runs and judges.
        results: folder for cells, the result file and the pages.
        log: where the hypothesis stands, committed, before test clips are looked at.
    """

    table: TableSpec
    recipe_name: str
    base: Recipe
    rows: tuple[Row, ...]
    ours: str
    seeds: tuple[int, ...]
    split: Split
    share: float = 1.0
    size: StudySize = field(default_factory=StudySize)
    run: Path
    results: Path
    log: Path
    cache: Path
    lanes: int = 2
    budget_s: float | None = None
    device: str | None = None
    precision: Literal["fp32", "bf16"] | None = None
    command: tuple[str, ...] = (sys.executable, "-m", "cyclemimic.cli")

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if self.ours not in names:
            raise InputError("--ours", expected=f"one of {', '.join(names)}", got=repr(self.ours), remedy="Run it too.")
        if self.split == "test" and self.share < 1:
            raise InputError(
                "--quarter", expected="validation clips", got="test clips", remedy="Screen on validation clips."
            )
        if self.split == "test" and len(self.rows) > 1 + CARRIED_ROWS:
            raise InputError(
                "--rows",
                expected=f"at most {CARRIED_ROWS} rows beside the control on the test clips",
                got=f"{len(self.rows) - 1}",
                remedy="Screen on validation clips (--quarter), and carry the best.",
            )
        world = make_world(self.size.world)
        self._bodies = chosen("bodies", self.size.bodies, world.bodies)
        chosen("bodies", [self.size.acting_body], world.bodies)
        chosen("unseen-bodies", self.size.unseen, self._bodies)
        if len(self.size.unseen) == len(self._bodies):
            raise InputError("--unseen-bodies", expected="a body that is seen", got="all unseen", remedy="Name fewer.")
        chosen("skills", self.size.skills, world.skills)
        chosen("skills", self.size.acting_skills, world.skills)
        planner = self._planner()
        self.plans = [planner.cell(row, seed) for seed in self.seeds for row in self.rows]
        self._whole = planner
        self.configuration = sha256_json([self.table.name, self.split, sorted(plan.key for plan in self.plans)])[:12]

    @property
    def scale(self) -> str:
        """The recipe's name, as files carry it."""
        return self.recipe_name.rpartition(":")[2].replace("+", "_")

    @property
    def name(self) -> str:
        """Of the result file: table, scale and split."""
        return f"{self.table.name}-{self.scale}{'-quarter' if self.share < 1 else ''}-{self.split}"

    @property
    def result(self) -> Path:
        """The result file."""
        return self.results / f"{self.name}.json"

    def _planner(self) -> Planner:
        return Planner(
            table=self.table,
            recipe_name=self.recipe_name,
            base=self.base,
            size=self.size,
            body_names=self._bodies,
            split=self.split,
            share=self.share,
            run=self.run,
            cache=self.cache,
            device=self.device,
            precision=self.precision,
            pace_ms=self._pace_ms(),
        )

    def _pace_ms(self) -> dict[str, float]:
        """CPU-ms per pair by objective, as this scale's cells tell."""
        told: dict[str, list[float]] = {}
        for path in (self.results / CELLS).glob(f"*-{self.scale}-*.json"):
            found = read_json(path)
            if found.get("scale") == self.scale and found.get("cpu_ms_per_pair"):
                told.setdefault(str(found["configuration"]["objective"]), []).append(float(found["cpu_ms_per_pair"]))
        return {objective: sum(some) / len(some) for objective, some in told.items()}

    def path_of(self, plan: CellPlan) -> Path:
        """Where a cell lies, or will."""
        return self.results / CELLS / cell_name(plan.row.name, self.scale, self.split, plan.seed, plan.key)

    @property
    def missing(self) -> list[CellPlan]:
        """Cells that are not measured yet."""
        return [plan for plan in self.plans if not self.path_of(plan).exists()]

    def dry_run(self) -> str:
        """The cells, what each costs on top of those above it, and the line that the log must hold before a test."""
        lines, seen = [], set[str]()
        left_s = 0.0
        for plan in self.plans:
            own = {job.name for job in needed(self._whole.jobs, plan.ends)} - seen
            cost_s = self._whole.cpu_s(own)
            done = self.path_of(plan).exists()
            if not done:
                seen |= own
                left_s += cost_s
            state = "measured" if done else f"{cost_s / 60:6.1f} CPU-min"
            lines.append(f"{plan.row.name:24} seed {plan.seed}  {plan.key}  {state}")
        count = len(self.missing)
        return "\n".join(
            [
                f"{self.name}: {len(self.rows)} rows, {len(self.seeds)} seeds; control {self.table.control}",
                *lines,
                f"{count} of {len(self.plans)} cells to measure, about {left_s / 60:.0f} CPU-minutes, "
                f"{duration(left_s / self.lanes)} on {self.lanes} lanes",
                f"the log's line: {self.log_line}",
            ]
        )

    @property
    def log_line(self) -> str:
        """What docs/log.md must say, committed, before test clips are looked at."""
        return f"ablate {self.table.name} {self.configuration}"

    def require_log(self) -> None:
        """Refuse unless hypothesis and configuration are committed.

        Raises:
            InputError: the committed log has no line with the table's name and this configuration.
        """
        try:
            told = subprocess.run(
                ["git", "-C", str(self.log.parent), "show", f"HEAD:./{self.log.name}"],
                capture_output=True,
                text=True,
                check=False,
            )
            text = told.stdout if told.returncode == 0 else ""
        except OSError:
            text = ""
        wanted = re.compile(rf"\bablate {re.escape(self.table.name)} {self.configuration}\b")
        if not wanted.search(text):
            raise InputError(
                self.log,
                expected=f"an entry, committed to git, with the line {self.log_line!r}",
                got="none",
                remedy="Write hypothesis and configuration down and commit them; then look at the test clips.",
            )

    def measure(self) -> int:
        """Measure what is missing, as far as the budget lets, and write what the table says; returns the exit code.

        Raises:
            InputError: another study is at work in the folder, or test clips wait for the log.
        """
        if self.split == "test":
            self.require_log()
        missing = self.missing
        print(f"{self.name}, configuration {self.configuration}: {len(missing)} of {len(self.plans)} cells to measure")
        code = 0
        if missing:
            with alone_in(self.run / "jobs"):
                code = self._measure(missing)
        self.write()
        return code

    def _measure(self, missing: Sequence[CellPlan]) -> int:
        # Planned anew: what only measured cells need is not made again.
        planner = self._planner()
        plans = [planner.cell(plan.row, plan.seed) for plan in missing]
        jobs = Jobs(
            jobs=needed(planner.jobs, [name for plan in plans for name in plan.ends]),
            folder=self.run / "jobs",
            lanes=self.lanes,
            command=self.command,
            budget_s=self.budget_s,
            keep_going=True,  # a row that ends in NaN must not cost the others their night
        )

        def gather() -> None:
            for plan in plans:
                done = all(jobs.is_done(planner.jobs[name]) for name in plan.ends)
                if done and not self.path_of(plan).exists():
                    self._keep(plan)

        jobs.ended = lambda job: gather()
        gather()  # a run that was killed may have left what was measured and not written down
        jobs.run()
        if jobs.failures:
            return 1
        if jobs.left:
            print(f"the budget is spent; {len(jobs.left)} commands are left, the same command goes on")
            return RunInterruptedError.exit_code
        return 0

    def _keep(self, plan: CellPlan) -> None:
        """Write a cell down; on the test split it is counted first, so that no look goes uncounted."""
        cell = self._cell(plan)
        if self.split == "test":
            self._count(plan)
        cell.save(self.results / CELLS)
        print(f"- measured {plan.row.name}, seed {plan.seed}", flush=True)

    def _cell(self, plan: CellPlan) -> Cell:
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

    def _looks(self) -> dict[str, dict[str, int]]:
        """By configuration and cell, how often test clips were looked at."""
        return read_json(self.result)["looks"] if self.result.exists() else {}

    def _count(self, plan: CellPlan) -> None:
        looks = self._looks()
        mine = looks.setdefault(self.configuration, {})
        name = self.path_of(plan).name
        mine[name] = mine.get(name, 0) + 1
        self._write_result(looks)

    def cells(self) -> dict[str, list[Cell]]:
        """What is measured, by row, in the order of the seeds."""
        found: dict[str, list[Cell]] = {row.name: [] for row in self.rows}
        for plan in self.plans:
            if self.path_of(plan).exists():
                found[plan.row.name].append(Cell.load(self.path_of(plan)))
        return found

    def _write_result(self, looks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """The result file. A configuration whose cells another table measured counts as one look here too."""
        cells = self.cells()
        rows = row_results(cells, self.table.control)
        whole = {
            "table": self.table.name,
            "scale": self.scale,
            "split": self.split,
            "share": self.share,
            "configuration": self.configuration,
            "control": self.table.control,
            "ours": self.ours,
            "seeds": len({cell.seed for cell in cells[self.ours]} & {c.seed for c in cells[self.table.control]}),
            "complete": not self.missing,
            "test_runs": sum(max(some.values(), default=1) for some in looks.values()),
            "looks": looks,
            "paired": asdict(rows[self.ours])["paired"],
            "rows": {name: asdict(row) for name, row in rows.items()},
            "commits": sorted({cell.commit or "unknown" for some in cells.values() for cell in some}),
        }
        plain: dict[str, Any] = null_for_nan(whole)
        write_json(self.result, plain)
        return plain

    def write(self) -> None:
        """Write the result file, and the table as Markdown and as one page."""
        looks = self._looks()
        cells = self.cells()
        if self.split == "test" and any(cells.values()):
            looks.setdefault(self.configuration, {})
        result = self._write_result(looks)
        pictures = [found for row in self.rows if (found := self._picture(row)) is not None]
        write_pages(
            self.results / self.name,
            self.table,
            self.rows,
            cells,
            result,
            pictures,
        )
        print(f"{self.results / self.name}.md and .html")

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
) -> Study:
    """A study from what a command line says.

    Raises:
        InputError: rows, seeds or lanes that cannot be.
    """
    for name, value in (("--seeds", seeds), ("--lanes", lanes), ("--budget-minutes", budget_minutes)):
        if value is not None and not value > 0:
            raise InputError(name, expected="more than 0", got=str(value), remedy="Leave it out.")
    if latent_only:
        table = replace(table, acts=False)
    wanted = table.chosen(rows)
    names = [row.name for row in wanted]
    return Study(
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
