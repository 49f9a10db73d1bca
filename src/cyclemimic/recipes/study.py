"""A study: cells that are measured by commands, one by one, resumable at any time, test clips only behind the log."""

from __future__ import annotations

import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import Split, cell_name
from cyclemimic.recipes.commands import Commands, StudySize, needed
from cyclemimic.recipes.footage import chosen
from cyclemimic.recipes.jobs import Jobs
from cyclemimic.recipes.recipe import Recipe
from cyclemimic.recipes.stations import make_world
from cyclemimic.store.atomic import alone_in, read_json, sha256_json
from cyclemimic.train.endings import RunInterruptedError
from cyclemimic.train.progress import duration

CELLS = "cells"


class AnyTable(Protocol):
    """What a study must know of its table."""

    @property
    def name(self) -> str:
        """Names the result file."""
        ...

    @property
    def control(self) -> str:
        """The row that all others are compared with."""
        ...


class AnyRow(Protocol):
    """What a study must know of a row."""

    @property
    def name(self) -> str:
        """In the table."""
        ...


class AnyPlan(Protocol):
    """What a study must know of a cell that is not measured yet."""

    @property
    def seed(self) -> int:
        """Which."""
        ...

    @property
    def key(self) -> str:
        """Of everything that decides its numbers but the code."""
        ...

    @property
    def file_row(self) -> str:
        """What its file is called after: the row, and what else tells it from other cells."""
        ...

    @property
    def ends(self) -> tuple[str, ...]:
        """The commands after which it can be written down."""
        ...


class AnyCell(Protocol):
    """What a study must know of a measured cell."""

    def save(self, folder: Path) -> Path:
        """Write it as one JSON."""
        ...


TableT = TypeVar("TableT", bound=AnyTable)
RowT = TypeVar("RowT", bound=AnyRow)
CommandsT = TypeVar("CommandsT", bound=Commands)
PlanT = TypeVar("PlanT", bound=AnyPlan)
CellT = TypeVar("CellT", bound=AnyCell)


@dataclass(kw_only=True)
class Study(ABC, Generic[TableT, RowT, CommandsT, PlanT, CellT]):
    """One table, its rows and seeds: what is measured, and what is left.

    Args:
        recipe_name: for `--recipe`; its last word names the scale.
        rows: those to run, the control first.
        ours: the row that the result file compares with the control.
        share: of the recipe's steps; below 1 this is a screening.
        run: folder for films, runs and judges.
        results: folder for cells, the result file and the pages.
        log: where the hypothesis stands, committed, before test clips are looked at.
    """

    table: TableT
    recipe_name: str
    base: Recipe
    rows: tuple[RowT, ...]
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
        world = make_world(self.size.world)
        self.bodies = chosen("bodies", self.size.bodies, world.bodies)
        chosen("bodies", [self.size.acting_body], world.bodies)
        chosen("unseen-bodies", self.size.unseen, self.bodies)
        if len(self.size.unseen) == len(self.bodies):
            raise InputError("--unseen-bodies", expected="a body that is seen", got="all unseen", remedy="Name fewer.")
        chosen("skills", self.size.skills, world.skills)
        chosen("skills", self.size.acting_skills, world.skills)
        self.check()
        self._whole = self.commands_anew()
        self.plans = self.planned(self._whole)
        self.configuration = sha256_json([self.table.name, self.split, sorted(plan.key for plan in self.plans)])[:12]

    def check(self) -> None:
        """Refuse with an InputError what this kind of study cannot do; nothing unless overridden."""

    def for_commands(self) -> dict[str, Any]:
        """What every collection of commands is told of this study: the arguments of `Commands`."""
        return {
            "recipe_name": self.recipe_name, "base": self.base, "size": self.size, "body_names": self.bodies,
            "split": self.split, "share": self.share, "run": self.run, "cache": self.cache, "device": self.device,
            "precision": self.precision, "pace_ms": self.pace_ms(),
        }  # fmt: skip

    @abstractmethod
    def commands_anew(self) -> CommandsT:
        """An empty collection of commands."""

    @abstractmethod
    def planned(self, commands: CommandsT) -> list[PlanT]:
        """All cells, their commands added to `commands`."""

    @abstractmethod
    def planned_again(self, commands: CommandsT, plan: PlanT) -> PlanT:
        """The same cell, its commands added to another collection."""

    @abstractmethod
    def measured(self, plan: PlanT) -> CellT:
        """A cell, from what its commands have left."""

    @abstractmethod
    def write_result(self, looks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """Write the result file; returns what it holds."""

    @abstractmethod
    def write_pages(self, result: Mapping[str, Any]) -> None:
        """Write the table as Markdown and as one page."""

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

    def pace_ms(self) -> dict[str, float]:
        """CPU-ms per pair by objective, as this scale's cells tell."""
        told: dict[str, list[float]] = {}
        for path in (self.results / CELLS).glob(f"*-{self.scale}-*.json"):
            found = read_json(path)
            if found.get("scale") == self.scale and found.get("cpu_ms_per_pair"):
                told.setdefault(str(found["configuration"]["objective"]), []).append(float(found["cpu_ms_per_pair"]))
        return {objective: sum(some) / len(some) for objective, some in told.items()}

    def path_of(self, plan: PlanT) -> Path:
        """Where a cell lies, or will."""
        return self.results / CELLS / cell_name(plan.file_row, self.scale, self.split, plan.seed, plan.key)

    @property
    def missing(self) -> list[PlanT]:
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
            lines.append(f"{plan.file_row:24} seed {plan.seed}  {plan.key}  {state}")
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

    def _measure(self, missing: Sequence[PlanT]) -> int:
        # Planned anew: what only measured cells need is not made again.
        commands = self.commands_anew()
        plans = [self.planned_again(commands, plan) for plan in missing]
        jobs = Jobs(
            jobs=needed(commands.jobs, [name for plan in plans for name in plan.ends]),
            folder=self.run / "jobs",
            lanes=self.lanes,
            command=self.command,
            budget_s=self.budget_s,
            keep_going=True,  # a row that ends in NaN must not cost the others their night
        )

        def gather() -> None:
            for plan in plans:
                done = all(jobs.is_done(commands.jobs[name]) for name in plan.ends)
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

    def _keep(self, plan: PlanT) -> None:
        """Write a cell down; on the test split it is counted first, so that no look goes uncounted."""
        cell = self.measured(plan)
        if self.split == "test":
            self._count(plan)
        cell.save(self.results / CELLS)
        print(f"- measured {plan.file_row}, seed {plan.seed}", flush=True)

    def _looks(self) -> dict[str, dict[str, int]]:
        """By configuration and cell, how often test clips were looked at."""
        return read_json(self.result)["looks"] if self.result.exists() else {}

    def _count(self, plan: PlanT) -> None:
        looks = self._looks()
        mine = looks.setdefault(self.configuration, {})
        name = self.path_of(plan).name
        mine[name] = mine.get(name, 0) + 1
        self.write_result(looks)

    def result_facts(self, looks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What every result file says. A configuration whose cells another table measured is one look here too."""
        return {
            "table": self.table.name,
            "scale": self.scale,
            "split": self.split,
            "share": self.share,
            "configuration": self.configuration,
            "control": self.table.control,
            "ours": self.ours,
            "complete": not self.missing,
            "test_runs": sum(max(some.values(), default=1) for some in looks.values()),
            "looks": looks,
        }

    def write(self) -> None:
        """Write the result file, and the table as Markdown and as one page."""
        looks = self._looks()
        if self.split == "test" and any(self.path_of(plan).exists() for plan in self.plans):
            looks.setdefault(self.configuration, {})
        self.write_pages(self.write_result(looks))
        print(f"{self.results / self.name}.md and .html")


def require_positive(**values: float | None) -> None:
    """InputError for a value that is given and not above 0; names are those of the command line's flags."""
    for name, value in values.items():
        if value is not None and not value > 0:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(flag, expected="more than 0", got=str(value), remedy="Leave it out.")
