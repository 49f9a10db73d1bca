"""Cells of the policy table: one row, one seed, one number of demonstrations; and what they say together. Engineering.

Every cell ran the same starts, so that two cells are compared start by start, and two rows seed by seed as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError
from cyclemimic.evaluate.cells import cell_name
from cyclemimic.evaluate.records import nan_for_null
from cyclemimic.evaluate.statistics import (
    McNemar,
    MeanRow,
    Paired,
    SuccessRow,
    mcnemar,
    mean_row,
    paired,
    success_row,
)
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.store.atomic import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class PolicyCell:
    """What was measured of one row at one seed with so many demonstrations.

    Args:
        row: its name in the table.
        per_skill: demonstrations of each skill.
        scale: name of the recipe.
        key: of everything that decides the numbers but the code; equal keys are not measured twice.
        share: of the recipe's steps; below 1 it is a screening.
        success: over all episodes.
        skills: of each skill.
        solved: a 1 or a 0 for each start, in the order of the starts, which is the same in every cell.
        rates: learning rate -> success from the validation starts, where the rate was chosen.
        rate: the chosen one, None where the recipe's was kept.
        configuration: what was filmed, shown and asked, as plain values.
        commit: of the code, None where git knows none; a plus where it was changed since.
    """

    row: str
    seed: int
    per_skill: int
    scale: str
    split: str
    key: str
    share: float
    success: SuccessRow
    skills: Mapping[str, SuccessRow]
    solved: str
    rates: Mapping[str, float]
    rate: float | None
    configuration: Mapping[str, Any]
    cpu: str
    commit: str | None

    @property
    def outcomes(self) -> list[bool]:
        """Whether each start was solved."""
        return [one == "1" for one in self.solved]

    def save(self, folder: Path) -> Path:
        """Write it as one JSON."""
        path = folder / cell_name(f"policy-{self.row}-{self.per_skill}", self.scale, self.split, self.seed, self.key)
        write_json(path, null_for_nan(asdict(self)))
        return path

    @classmethod
    def load(cls, path: Path) -> PolicyCell:
        """Undo `save`.

        Raises:
            InputError: it holds something else.
        """
        found = read_json(path)
        try:
            return cls(
                **{
                    **found,
                    "success": SuccessRow(**nan_for_null(found["success"])),
                    "skills": {name: SuccessRow(**nan_for_null(row)) for name, row in found["skills"].items()},
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                path, expected="a cell of the policy table", got=str(error), remedy="Remove it and run again."
            ) from None


@dataclass(frozen=True, kw_only=True)
class Against:
    """A row against another on the same seeds and starts.

    Args:
        paired: seed by seed.
        starts: start by start within each seed, all seeds together: how often only the other row solved one, and how
            often only this one. Episodes of one seed share a policy, so that its p says less than it seems.
    """

    paired: Paired
    starts: McNemar


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """A row with so many demonstrations, over its seeds.

    Args:
        mean: of the seeds' rates, with a t interval.
        episodes: of all seeds together, with Wilson's interval: as if all were of one policy.
        skills: the same of each skill.
        against: by the name of the other row.
    """

    seeds: tuple[int, ...]
    mean: MeanRow
    episodes: SuccessRow
    skills: Mapping[str, SuccessRow]
    against: Mapping[str, Against]


Cells = Mapping[tuple[str, int], Sequence[PolicyCell]]  # (row, demonstrations of each skill) -> seeds


def policy_results(cells: Cells, beside: Mapping[str, Sequence[str]]) -> dict[tuple[str, int], PolicyResult]:
    """What the cells say; `beside` names the rows that each row is compared with, those that were not run left out."""
    found = {}
    for (row, per_skill), some in cells.items():
        if not some:
            continue
        others = {name: cells.get((name, per_skill), ()) for name in beside[row] if name != row}
        found[row, per_skill] = PolicyResult(
            seeds=tuple(sorted(cell.seed for cell in some)),
            mean=mean_row([cell.success.rate for cell in some]),
            episodes=_pooled([cell.success for cell in some]),
            skills={name: _pooled([cell.skills[name] for cell in some]) for name in some[0].skills},
            against={name: compared for name, theirs in others.items() if (compared := _against(some, theirs))},
        )
    return found


def _pooled(rows: Sequence[SuccessRow]) -> SuccessRow:
    solved = sum(round(row.rate * row.n) for row in rows if row.n)
    return success_row(solved, sum(row.n for row in rows), sum(row.errors for row in rows))


def _against(ours: Sequence[PolicyCell], theirs: Sequence[PolicyCell]) -> Against | None:
    mine, other = ({cell.seed: cell for cell in some} for some in (ours, theirs))
    both = sorted(mine.keys() & other.keys())
    if not both:
        return None
    for seed in both:
        if _starts(mine[seed]) != _starts(other[seed]):
            raise InputError(
                f"cells of {mine[seed].row} and {other[seed].row}, seed {seed}", expected="the same starts",
                got="others", remedy="Measure both with the same settings.",
            )  # fmt: skip
    return Against(
        paired=paired([other[s].success.rate for s in both], [mine[s].success.rate for s in both]),
        starts=mcnemar(
            [one for s in both for one in other[s].outcomes], [one for s in both for one in mine[s].outcomes]
        ),
    )


def _starts(cell: PolicyCell) -> tuple[object, ...]:
    size = cell.configuration["size"]
    asked = (size["world"], size["acting_body"], list(size["acting_skills"]), size["acting_episodes"])
    return (cell.split, len(cell.solved), *asked)
