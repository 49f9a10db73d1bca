"""A table as Markdown and as one HTML page: means, differences, intervals, wins, and a picture for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.evaluate.cells import MEASURES, Cell, Measure, RowResult, row_results
from cyclemimic.evaluate.models import draws
from cyclemimic.evaluate.pilot import PILOT
from cyclemimic.evaluate.report import Picture, Section, Table, write_report
from cyclemimic.evaluate.sheets import transfer_rows, transfer_sheet
from cyclemimic.evaluate.statistics import MeanRow, Paired, mean_row
from cyclemimic.evaluate.summary import number
from cyclemimic.recipes.footage import SPLIT_SEED, cached, open_source
from cyclemimic.recipes.known_motion import known_motion
from cyclemimic.recipes.planning import CellPlan
from cyclemimic.recipes.tables import Row, TableSpec
from cyclemimic.store.atomic import write_atomically
from cyclemimic.tokenizer.tokenizer import LatentActionTokenizer
from cyclemimic.train.stage1_tokenizer import tokenizer_facts

HOW_TO_READ = (
    "Means over seeds with 95 % t intervals; a seed is a new initialisation, a new order of the data and new video. "
    "Differences are against the control, seed by seed; wins count seeds, the p of the sign test is exact. Leak and "
    "error are better when lower. A dash was not measured, or the judge was refused. Never cycle accuracy alone."
)


@dataclass(frozen=True, kw_only=True)
class RowPicture:
    """A row's transfer sheet."""

    row: str
    caption: str
    png: bytes


def draw_row(row: Row, plan: CellPlan, path: Path, *, split: str, cache: Path) -> RowPicture | None:
    """Transfers of a row at one seed, drawn once and kept at `path`; None for a decoder that draws nothing."""
    if not path.exists():
        tokenizer = LatentActionTokenizer.load(plan.tokenizer.folder)
        if not draws(tokenizer):
            return None
        source = open_source(f"film:{plan.film.folder}")
        assert isinstance(source, FilmSource)
        frames = cached(source, tokenizer.config.size_px, cache)
        sides = known_motion(source, frames, tokenizer_facts(plan.tokenizer.folder)["gap_s"])
        pairs = sides[2] if split == "test" else sides[1]
        write_atomically(path, transfer_sheet(transfer_rows(tokenizer, pairs, seed=SPLIT_SEED, count=4), scale=2))
    return RowPicture(row=row.name, caption=f"{row.name}, seed {plan.seed}: {row.says}", png=path.read_bytes())


def write_pages(
    stem: Path,
    table: TableSpec,
    rows: Sequence[Row],
    cells: Mapping[str, Sequence[Cell]],
    result: Mapping[str, Any],
    pictures: Sequence[RowPicture],
) -> None:
    """Write `stem`.md and `stem`.html."""
    title = f"{table.name}, {result['scale']}, {result['split']} clips"
    tables, warnings = _tables(table, rows, cells), _warnings(cells, result)
    facts = (
        f"Configuration {result['configuration']}; control {table.control}; "
        f"{steps_text(result['share'])}; looks at test clips so far: {result['test_runs']}; "
        f"commits {', '.join(result['commits']) or 'none'}."
    )
    lines = [f"# {title}", "", table.says, "", HOW_TO_READ, "", facts, ""]
    lines += [f"**{warning}**\n" for warning in warnings]
    for each in tables:
        lines += [each.caption, "", *markdown(each), ""]
    write_atomically(stem.with_name(stem.name + ".md"), "\n".join(lines).encode())
    sections = [
        Section(title="Rows", text=facts, warning=" ".join(warnings), tables=tables),
        Section(
            title="Transfer, seen",
            text="At the first seed: a pair of one body, a frame of another, what D makes of it, and the change.",
            pictures=[Picture(png=found.png, caption=found.caption) for found in pictures],
        ),
    ]
    write_report(stem.with_name(stem.name + ".html"), title, sections, text=f"{table.says} {HOW_TO_READ}")


def _tables(table: TableSpec, rows: Sequence[Row], cells: Mapping[str, Sequence[Cell]]) -> list[Table]:
    found = row_results(cells, table.control)
    shown = _shown(found)
    tables = result_tables(found, table.control, {row.name: row.says for row in rows})
    seeds = Table(
        head=["row", "seed", *(measure.text for measure in shown.values())],
        rows=[
            [name, str(cell.seed), *(number(cell.figure(m)) for m in shown)] for name, some in cells.items()
            for cell in some
        ],
        caption="Every cell.",
    )  # fmt: skip
    return [*tables, *([_pilot(cells)] if table.pilot else []), seeds]


def _shown(found: Mapping[str, RowResult]) -> dict[str, Measure]:
    """The columns in which something was measured."""
    return {name: measure for name, measure in MEASURES.items() if any(row.measures[name].n for row in found.values())}


def result_tables(found: Mapping[str, RowResult], control: str, says: Mapping[str, str]) -> list[Table]:
    """Means of every row, and differences from the control; `says` is what a row is, in words."""
    shown, names = _shown(found), list(found)
    means = Table(
        head=["row", "seeds", *(measure.text for measure in shown.values()), "what it is"],
        rows=[
            [name, str(len(row.seeds)), *(_mean(row.measures[m]) for m in shown), says.get(name, "")]
            for name, row in found.items()
        ],
        control=frozenset({names.index(control)} if control in names else ()),
        prose=True,
        caption="Means.",
    )
    others = {name: row for name, row in found.items() if name != control}
    differences = Table(
        head=["row", *(measure.text for measure in shown.values())],
        rows=[[name, *(_difference(row.paired[m]) for m in shown)] for name, row in others.items()],
        caption=f"Minus {control}: mean difference, its interval, wins of seeds, p of the sign test.",
    )
    return [means, differences]


def _pilot(cells: Mapping[str, Sequence[Cell]]) -> Table:
    """Transfer by how foreign the frame is; how differently bodies use codes, raw and for equal motions."""
    columns = {**PILOT, "raw": "JS of bodies", "matched": "... same motion"}

    def figures(cell: Cell) -> dict[str, float]:
        quality = cell.record.quality
        refused = cell.record.judge.refused
        cosines = {name: math.nan if refused else cell.extra.get(name, math.nan) for name in PILOT}
        return {**cosines, "raw": quality.body_divergence, "matched": quality.body_divergence_matched}

    rows = [
        [name, *(_mean(mean_row([figures(cell)[column] for cell in some])) for column in columns)]
        for name, some in cells.items()
    ]
    return Table(
        head=["row", *columns.values()],
        rows=rows,
        caption="The pilot study: the cosine of what the judge reads to the truth. Shares of every code by body lie in "
        "the cells.",
    )


def _mean(row: MeanRow) -> str:
    if not row.n:
        return "-"
    return number(row.mean) + (f" ({number(row.low)} to {number(row.high)})" if row.n > 1 else "")


def _difference(found: Paired) -> str:
    if not found.n:
        return "-"
    interval = f" ({found.low:+.3f} to {found.high:+.3f})" if found.n > 1 else ""
    return f"{found.mean_difference:+.3f}{interval}, {found.wins}/{found.n}, p {found.sign_p:.2f}"


def _warnings(cells: Mapping[str, Sequence[Cell]], result: Mapping[str, Any]) -> list[str]:
    said = []
    if not result["complete"]:
        said.append("Not all cells are measured yet.")
    refused = sorted({cell.seed for some in cells.values() for cell in some if cell.record.judge.refused})
    if refused:
        said.append(f"The judge is refused at seeds {', '.join(map(str, refused))}: transfer does not count there.")
    for name, some in cells.items():
        inert = sorted({term for cell in some for term in cell.inert})
        if inert:
            said.append(f"{name}: {', '.join(inert)} never counted, so the row is not what it says.")
    return said


def markdown(table: Table) -> list[str]:
    """A table's lines in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(table.head), "|" + "---|" * len(table.head), *(line(row) for row in table.rows)]


def steps_text(share: float) -> str:
    """How much of a recipe was trained, in words."""
    return "all of the recipe's steps" if share == 1 else f"{share:g} of the recipe's steps"
