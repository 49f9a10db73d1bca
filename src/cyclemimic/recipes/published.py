"""The paper's tables in its row order: what is published, beside what was measured here, or that nothing was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError
from cyclemimic.evaluate.records import nan_for_null
from cyclemimic.evaluate.statistics import MeanRow
from cyclemimic.store.atomic import read_json

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of the paper.

    Args:
        name: as the paper has it.
        published: numbers, in the order of the table's columns; empty where none is known to us.
        here: our table and row that ask the same, such as ("objective", "lapa").
    """

    name: str
    published: str
    here: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of the paper; `columns` says what its numbers are."""

    title: str
    columns: str
    rows: tuple[PublishedRow, ...]


def _row(name: str, published: str, here: str = "") -> PublishedRow:
    table, _, row = here.partition("/")
    return PublishedRow(name=name, published=published, here=(table, row) if here else None)


# From published descriptions of the paper; check them against the paper before you quote them.
PUBLISHED: tuple[PublishedTable, ...] = (
    PublishedTable(
        title="LIBERO",
        columns="success %, Spatial / Object / Goal / Long / mean",
        rows=(
            _row("LAPA", "73.8 / 74.6 / 58.8 / 55.4 / 65.7", "objective/lapa"),
            _row("OpenVLA", "84.7 / 88.4 / 79.2 / 53.7 / 76.5"),
            _row("UniVLA", "96.5 / 96.8 / 95.6 / 92.0 / 95.2", "objective/univla"),
            _row("CycleMimic w/ Genie (Full)", "91.6 / 92.7 / 85.5 / 84.9 / 88.6", "objective/genie"),
            _row("CycleMimic (Bridge)", "95.8 / 97.6 / 96.2 / 92.0 / 95.4"),
            _row("CycleMimic (Full)", "97.5 / 98.2 / 97.3 / 93.4 / 96.6", "objective/ac3"),
        ),
    ),
    PublishedTable(
        title="CALVIN ABC->D",
        columns="mean length of a chain of five",
        rows=(
            _row("OpenVLA", "3.27"),
            _row("Moto", "3.10"),
            _row("GR-1", ""),
            _row("Dita", "3.61"),
            _row("CLOVER", "3.53"),
            _row("UniVLA", "3.80"),
            _row("CycleMimic w/ Genie", "3.46"),
            _row("CycleMimic", "3.93"),
        ),
    ),
    PublishedTable(
        title="SimplerEnv (WidowX)",
        columns="success %; published as a chart without numbers",
        rows=(_row("CycleMimic w/ Genie", ""), _row("CycleMimic", "")),
    ),
    PublishedTable(
        title="Real robot, nine tasks",
        columns="mean success",
        rows=(
            _row("OpenVLA", ".44"),
            _row("CycleMimic w/ Genie", ".68"),
            _row("UniVLA", ".77"),
            _row("CycleMimic", ".88"),
        ),
    ),
    PublishedTable(
        title="Pilot study: one latent action on other frames and bodies",
        columns="pictures, no figure",
        rows=(_row("Genie tokenizer", "", "pilot/genie"), _row("with AC3", "", "pilot/ac3")),
    ),
    PublishedTable(
        title="Ablation: buffer",
        columns="LIBERO mean, success %",
        rows=(
            _row("B = 1", "92.4", "buffer/B=1"),
            _row("B = 4", "95.4", "buffer/B=4"),
            _row("B = 16", "94.4", "buffer/B=16"),
        ),
    ),
    PublishedTable(
        title="Ablation: discriminator",
        columns="LIBERO mean, success %",
        rows=(
            _row("none", "87.0", "discriminator/none"),
            _row("local", "93.8", "discriminator/local"),
            _row("local-global", "95.4", "discriminator/local-global"),
        ),
    ),
    PublishedTable(
        title="Ablation: depth of the discriminator",
        columns="LIBERO mean, success %; the paper finds 12 of 8, 12 and 16 layers best, as deep as E",
        rows=(
            _row("8 layers", "", "discriminator/depth-half"),
            _row("12 layers", "95.4", "discriminator/local-global"),
            _row("16 layers", "", "discriminator/depth-more"),
        ),
    ),
    PublishedTable(
        title="Ablation: action decoding",
        columns="LIBERO mean, success %",
        rows=(
            _row("discrete", "86.1", "head/discrete"),
            _row("latent", "94.6", "head/latent"),
            _row("ACT query", "95.4", "head/act_query"),
        ),
    ),
)


def tables_text(results: Path) -> str:
    """All tables; a result on test clips comes before one on validation clips, a whole run before a screening.

    Raises:
        InputError: there is no such folder.
    """
    if not results.is_dir():
        raise InputError("--results", expected="a folder", got=str(results), remedy="Run `cyclemimic ablate` first.")
    lines = [
        "Measured here: the same question on simulated arms, at the scale that is named; never the paper's benchmarks.",
        "Means over seeds with 95 % intervals.",
    ]
    for table in PUBLISHED:
        lines += ["", f"{table.title} ({table.columns})"]
        for row in table.rows:
            lines.append(f"  {row.name:28} {row.published or 'no number known':36} {_here(results, row.here)}".rstrip())
    return "\n".join(lines)


def _here(results: Path, row: tuple[str, str] | None) -> str:
    if row is None:
        return NOT_MEASURED
    table, name = row
    for found in _result_files(results, table):
        measures = found["rows"].get(name, {}).get("measures", {})
        said = [
            f"{text} {MeanRow(**measures[figure])}"
            for figure, text in (("success", "success"), ("transfer_cosine", "transfer cos"), ("kappa_cross", "kappa"))
            if measures.get(figure, {}).get("n")
        ]
        if said:
            shorter = "" if found["share"] == 1 else f" at {found['share']:g} of the steps"
            return f"{found['scale']}{shorter}, {found['split']}: {'; '.join(said)}"
    return NOT_MEASURED


def _result_files(results: Path, table: str) -> list[Mapping[str, Any]]:
    """Result files of a table, the ones that weigh most first."""
    found = [nan_for_null(read_json(path)) for path in sorted(results.glob(f"{table}-*.json"))]
    mine = [one for one in found if one.get("table") == table and "rows" in one]
    return sorted(mine, key=lambda one: (one["split"] != "test", -one["share"], -one["seeds"]))
