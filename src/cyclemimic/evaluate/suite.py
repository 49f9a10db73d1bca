"""A fixed set of tasks on which methods are compared: its Protocol, how a policy fares on it, and the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.evaluate.parts import Parts
from cyclemimic.evaluate.rollout import BatchPolicy, EpisodeOutcome, Instruct, RolloutResult, evaluate_policy
from cyclemimic.evaluate.statistics import SuccessRow
from cyclemimic.store.atomic import write_json
from cyclemimic.types import Task, World

FIRST_SEED = 10_000_000  # starts that no film of ours has
ALL = "all"  # the row of the whole suite


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """What somebody else published of a method on this suite: copied, not run.

    Args:
        method: its name.
        success: share of episodes solved, by family; `all` is the whole suite, where that was published too.
        source: where it was published.
    """

    method: str
    success: Mapping[str, float]
    source: str

    def __post_init__(self) -> None:
        wrong = {family: rate for family, rate in self.success.items() if not 0 <= rate <= 1}
        if wrong or not self.source:
            raise InputError(
                f"reference row {self.method!r}",
                expected="shares between 0 and 1, and where they were published",
                got=f"{wrong or 'no source'}",
                remedy="Divide percent by 100; name the paper and its table.",
            )


@runtime_checkable
class Suite(Protocol):
    """Tasks, the world that starts and judges them, and what others published. Success is the world's judgement."""

    name: str  # also of the file of results
    references: tuple[ReferenceRow, ...]

    def world(self) -> World:
        """A fresh world that knows every task."""
        ...

    def tasks(self, episodes: int) -> Mapping[str, Sequence[Task]]:
        """By family, `episodes` starts of each skill on each body; more episodes keep the starts of fewer.

        A suite without parts has one family.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """A policy's outcomes by family, beside the rows of others."""

    suite: str
    families: Mapping[str, RolloutResult]
    references: tuple[ReferenceRow, ...] = ()

    def rows(self) -> dict[str, SuccessRow]:
        """The rate of each family, and of all episodes where there are several families."""
        rows = {family: result.row() for family, result in self.families.items()}
        if len(rows) > 1:
            rows[ALL] = RolloutResult(outcomes=tuple(o for r in self.families.values() for o in r.outcomes)).row()
        return rows

    def text(self) -> str:
        """A row per family: ours with its 95 % Wilson interval, then what others published."""
        head = [self.suite, "this policy", *(f"{r.method} [{i}]" for i, r in enumerate(self.references, start=1))]
        table = [head]
        for family, row in self.rows().items():
            told = [f"{r.success[family]:.1%}" if family in r.success else "-" for r in self.references]
            table.append([family, str(row), *told])
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        lines += [f"[{i}] published in {r.source}; not run here" for i, r in enumerate(self.references, start=1)]
        errors = dict.fromkeys(message for result in self.families.values() for message in result.error_messages)
        return "\n".join([*lines, *errors])

    def save(self, path: Path) -> None:
        """Write rates, references and every episode as JSON."""
        write_json(
            path,
            {
                "suite": self.suite,
                "success": {family: asdict(row) for family, row in self.rows().items()},
                "published_elsewhere": [asdict(row) for row in self.references],
                "episodes": {family: _episodes(result) for family, result in self.families.items()},
            },
        )


def evaluate_suite(
    suite: Suite,
    policy_for: Callable[[str], tuple[BatchPolicy, int]],
    *,
    episodes: int,
    body: str | None = None,
    instruct: Instruct | None = None,
    parts: Parts | None = None,
) -> SuiteResult:
    """Run every task of a suite once.

    Args:
        suite: what is run.
        policy_for: gives for a body's name the policy, and how many actions of its chunks are taken.
        episodes: of each skill on each body.
        body: leave out tasks of other bodies.
        instruct: changes what the policy is shown, see `evaluate_policy`.
        parts: where episodes are kept until all are done; its facts decide the policy and what it is shown.

    Raises:
        InputError: the suite, or the policy, does not know a body.
    """
    if episodes < 1:
        raise InputError("--episodes", expected="1 or more", got=str(episodes), remedy="Leave it out.")
    tasks = suite.tasks(episodes)
    bodies = list(dict.fromkeys(task.body for some in tasks.values() for task in some))
    if body is not None and body not in bodies:
        raise InputError(
            "--body", expected=f"a body of {suite.name!r}", got=repr(body), remedy=did_you_mean(body, bodies)
        )
    # All of them first: a body that the policy does not know is told before anything is run.
    policies = {name: policy_for(name) for name in bodies if body in (None, name)}
    families: dict[str, RolloutResult] = {}
    for family, some in tasks.items():
        outcomes: dict[Task, EpisodeOutcome] = {}
        for name, (policy, chunk_steps) in policies.items():
            mine = [task for task in some if task.body == name]
            found = evaluate_policy(
                suite.world,
                policy,
                mine,
                chunk_steps=chunk_steps,
                instruct=instruct,
                parts=None if parts is None else parts.under(suite.name, family, name),
            )
            outcomes.update(zip(mine, found.outcomes, strict=True))
        if outcomes:
            families[family] = RolloutResult(outcomes=tuple(outcomes[task] for task in some if task in outcomes))
    return SuiteResult(suite=suite.name, families=families, references=suite.references)


def _episodes(result: RolloutResult) -> list[dict[str, Any]]:
    return [{**asdict(o.task), "success": o.success, "steps": o.steps, "error": o.error} for o in result.outcomes]
