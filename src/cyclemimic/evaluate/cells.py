"""A cell of a table: one row at one seed, measured; and what the cells of a table say together. Engineering."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cyclemimic.errors import InputError
from cyclemimic.evaluate.records import QualityRecord, nan_for_null, quality_record
from cyclemimic.evaluate.statistics import MeanRow, Paired, SuccessRow, mean_row, paired
from cyclemimic.evaluate.summary import null_for_nan
from cyclemimic.store.atomic import read_json, write_json

Split = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One column of a table.

    Args:
        figure: its name in `Quality`; empty where a policy is judged.
        text: in words.
        higher_is_better: who wins a seed.
        judged: whether the judge reads it, so that it is void where the judge is refused.
    """

    figure: str
    text: str
    higher_is_better: bool = True
    judged: bool = False


MEASURES: dict[str, Measure] = {
    "transfer_cosine": Measure(figure="transfer_cosine", text="transfer cos", judged=True),
    "transfer_unseen": Measure(figure="transfer_cosine_unseen", text="... unseen", judged=True),
    "counterfactual": Measure(figure="counterfactual_score", text="counterfactual"),
    "kappa_cross": Measure(figure="kappa_cross", text="kappa cross"),
    "probe_cross": Measure(figure="probe_cross", text="probe cross"),
    "probe_unseen": Measure(figure="probe_unseen", text="... unseen"),
    "probe_same": Measure(figure="probe_same", text="probe same"),
    "joint_codes": Measure(figure="joint_codes", text="joint codes"),
    "joint_codes_within": Measure(figure="joint_codes_within", text="within a body"),
    "leak_index": Measure(figure="leak_index", text="leak index", higher_is_better=False),
    "reconstruction": Measure(figure="reconstruction_vs_copy", text="error / copy", higher_is_better=False),
    "cycle_accuracy": Measure(figure="cycle_accuracy", text="cycle acc"),
    "success": Measure(figure="", text="success"),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What was measured of one row at one seed.

    Args:
        row: its name in the table.
        scale: name of the recipe.
        key: of everything that decides the numbers but the code; equal keys are not measured twice.
        share: of the recipe's steps; below 1 it is a screening.
        record: the tokenizer's quality.
        success: in closed loop, None where no policy was trained.
        extra: further figures that the table asks for, by name.
        cpu_ms_per_pair: of the tokenizer's training, over its whole length.
        inert: terms that should have counted and never did: then the row is not what it says it is.
        configuration: what the row trained, as plain values.
        commit: of the code, None where git knows none; a plus where it was changed since.
    """

    row: str
    seed: int
    scale: str
    split: str
    key: str
    share: float
    record: QualityRecord
    success: SuccessRow | None
    extra: Mapping[str, float]
    cpu_ms_per_pair: float
    inert: tuple[str, ...]
    configuration: Mapping[str, Any]
    cpu: str
    commit: str | None

    def figure(self, name: str) -> float:
        """A measure's value; NaN where it was not measured, or may not be believed."""
        measure = MEASURES[name]
        if not measure.figure:
            return math.nan if self.success is None else self.success.rate
        if measure.judged and self.record.judge.refused:
            return math.nan
        return float(self.record.quality.row()[measure.figure])

    def file_name(self) -> str:
        """Where it lies among other cells."""
        return cell_name(self.row, self.scale, self.split, self.seed, self.key)

    def save(self, folder: Path) -> Path:
        """Write it as one JSON."""
        path = folder / self.file_name()
        write_json(path, null_for_nan(asdict(self)))
        return path

    @classmethod
    def load(cls, path: Path) -> Cell:
        """Undo `save`.

        Raises:
            InputError: it holds something else.
        """
        found = read_json(path)
        try:
            record, success = quality_record(found["record"]), found["success"]
            rest = {k: v for k, v in nan_for_null(found).items() if k not in ("record", "success", "commit", "inert")}
            return cls(
                **{**rest, "configuration": found["configuration"]},
                record=record,
                success=None if success is None else SuccessRow(**nan_for_null(success)),
                inert=tuple(found["inert"]),
                commit=found["commit"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                path, expected="a cell of `cyclemimic ablate`", got=str(error), remedy="Remove it and run again."
            ) from None


def cell_name(row: str, scale: str, split: str, seed: int, key: str) -> str:
    """The file of a cell; a row's plus signs are kept."""
    return f"{row}-{scale}-{split}-seed{seed}-{key}.json"


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """A row over its seeds: every measure alone, and against the control on the same seeds."""

    measures: Mapping[str, MeanRow]
    paired: Mapping[str, Paired]
    seeds: tuple[int, ...]


def row_results(cells: Mapping[str, Sequence[Cell]], control: str) -> dict[str, RowResult]:
    """Rows by name; a row is compared with the control on the seeds that both have."""
    by_seed = {row: {cell.seed: cell for cell in some} for row, some in cells.items()}
    against = by_seed.get(control, {})
    found = {}
    for row, mine in by_seed.items():
        both = sorted(mine.keys() & against.keys())
        found[row] = RowResult(
            measures={name: mean_row([mine[s].figure(name) for s in sorted(mine)]) for name in MEASURES},
            paired={
                name: paired(
                    [against[s].figure(name) for s in both],
                    [mine[s].figure(name) for s in both],
                    higher_is_better=measure.higher_is_better,
                )
                for name, measure in MEASURES.items()
            },
            seeds=tuple(sorted(mine)),
        )
    return found
