"""The policy table as Markdown and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclemimic.evaluate.policy_cells import Against, Cells, PolicyResult
from cyclemimic.evaluate.report import Section, Table, write_report
from cyclemimic.evaluate.statistics import MeanRow
from cyclemimic.recipes.policy_rows import PolicyRow, PolicyTable
from cyclemimic.recipes.table_pages import markdown, steps_text
from cyclemimic.store.atomic import write_atomically

HOW_TO_READ = (
    "Success in closed loop, per cent. All rows act from the same starts. Mean: over seeds, with a 95 % t interval; a "
    "seed is a new initialisation, a new order of the data, new video and new demonstrations. Episodes: of all seeds "
    "together, with Wilson's interval, which knows nothing of how seeds differ. Differences are seed by seed, with "
    "their t interval and the wins of seeds; behind them the starts that only the other row and that only this row "
    "solved, and the exact p of McNemar's test over the starts of all seeds: where the intervals disagree, believe "
    "the one over seeds. Where a rate was chosen, it was from the validation starts: on those it flatters its row."
)
Results = Mapping[tuple[str, int], PolicyResult]


def write_policy_pages(
    stem: Path,
    table: PolicyTable,
    rows: Sequence[PolicyRow],
    per_skill: Sequence[int],
    cells: Cells,
    results: Results,
    result: Mapping[str, Any],
) -> None:
    """Write `stem`.md and `stem`.html."""
    title = f"{table.name}, {result['scale']}, {result['split']} starts"
    facts = (
        f"Configuration {result['configuration']}; {steps_text(result['share'])}; "
        f"looks at test starts so far: {result['test_runs']}; commits {', '.join(result['commits']) or 'none'}."
    )
    warning = "" if result["complete"] else "Not all cells are measured yet."
    parts = [(count, [_means(table, rows, count, results), _differences(table, rows, count, results)])
             for count in per_skill]  # fmt: skip
    lines = [f"# {title}", "", table.says, "", HOW_TO_READ, "", facts, "", *([f"**{warning}**", ""] if warning else [])]
    sections = []
    for count, tables in parts:
        heading = f"{count} demonstrations per skill"
        lines += [f"## {heading}", ""]
        for each in tables:
            lines += [each.caption, "", *markdown(each), ""]
        sections.append(Section(title=heading, text="", tables=tables))
    every = _every_cell(cells)
    lines += ["## Cells", "", every.caption, "", *markdown(every), ""]
    sections.append(Section(title="Cells", text=facts, warning=warning, tables=[every]))
    write_atomically(stem.with_name(stem.name + ".md"), "\n".join(lines).encode())
    write_report(stem.with_name(stem.name + ".html"), title, sections, text=f"{table.says} {HOW_TO_READ}")


def _means(table: PolicyTable, rows: Sequence[PolicyRow], count: int, results: Results) -> Table:
    shown = [(row, results[row.name, count]) for row in rows if (row.name, count) in results]
    skills = list(shown[0][1].skills) if shown else []
    return Table(
        head=["row", "seeds", "mean", "episodes", *skills, "what it is"],
        rows=[
            [
                row.name,
                str(len(found.seeds)),
                _mean(found.mean),
                str(found.episodes),
                *(f"{100 * found.skills[name].rate:.0f}" for name in skills),
                row.says,
            ]
            for row, found in shown
        ],
        control=frozenset(i for i, (row, _) in enumerate(shown) if row.name == table.control),
        prose=True,
        caption="Success.",
    )


def _differences(table: PolicyTable, rows: Sequence[PolicyRow], count: int, results: Results) -> Table:
    lines = []
    for row in rows:
        found = results.get((row.name, count))
        if found is None or row.name == table.control:
            continue
        further = row.beside if row.beside in found.against else None
        lines.append([
            row.name,
            _difference(found.against.get(table.control)),
            _difference(found.against.get(table.genie)),
            f"{further}: {_difference(found.against[further])}" if further else "-",
        ])  # fmt: skip
    return Table(
        head=["row", f"minus {table.control}", f"minus {table.genie}", "minus another"],
        rows=lines,
        caption="Differences in points.",
    )


def _every_cell(cells: Cells) -> Table:
    rows = []
    for (name, count), some in cells.items():
        for cell in some:
            tried = ", ".join(f"{rate}: {100 * success:.0f}" for rate, success in cell.rates.items())
            chosen = f"{cell.rate:g} of {tried}" if cell.rate is not None else "-"
            rows.append([name, str(count), str(cell.seed), str(cell.success), chosen])
    return Table(
        head=["row", "demonstrations", "seed", "success", "rate, chosen from the validation starts"],
        rows=rows,
        caption="Every cell.",
    )


def _mean(row: MeanRow) -> str:
    if not row.n:
        return "-"
    interval = f" ({100 * row.low:.0f} to {100 * row.high:.0f})" if row.n > 1 else ""
    return f"{100 * row.mean:.1f}{interval}"


def _difference(found: Against | None) -> str:
    if found is None:
        return "-"
    seeds, starts = found.paired, found.starts
    interval = f" ({100 * seeds.low:+.0f} to {100 * seeds.high:+.0f})" if seeds.n > 1 else ""
    return (
        f"{100 * seeds.mean_difference:+.1f}{interval}, {seeds.wins}/{seeds.n}; "
        f"{starts.only_first}:{starts.only_second}, p {starts.p:.2g}"
    )
