"""One HTML file that needs nothing beside it: no script, no font, no picture from elsewhere. Engineering."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cyclemimic.store.atomic import write_atomically

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e22; --paper: #fff; --soft: #f2f4f7; --line: #d5d9e0;
  --muted: #646b78; --warn: #b3261e; --good: #1b7f3b; --doubt: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ee; --paper: #14161a; --soft: #1f2329; --line: #363c46;
    --muted: #9aa3b2; --warn: #ff8a80; --good: #7ee2a0; --doubt: #f2c96d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin: 2.2rem 0 .5rem; font-size: 1.2rem; }
p, figcaption { color: var(--muted); } p { margin: .4rem 0 .8rem; }
.warn { color: var(--warn); font-weight: 600; }
.wide { overflow-x: auto; margin: .6rem 0 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; min-width: 50%; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.strong td { font-weight: 600; } tr.control td, td.control, th.control { color: var(--muted); }
tr.good .status { color: var(--good); } tr.suspicious .status { color: var(--doubt); }
tr.broken .status { color: var(--warn); } .status { font-weight: 600; }
th.prose, td.prose { text-align: left; white-space: normal; min-width: 18rem; color: var(--muted); }
figure { margin: .8rem 0 1.4rem; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 4px; }
pre { overflow-x: auto; padding: .8rem; background: var(--soft); border-radius: 4px; font-size: .82rem; }
details summary { cursor: pointer; }
@media (max-width: 32rem) { th, td { padding: .3rem .4rem; } table { font-size: .85rem; } }
"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A head and rows of cells; `strong` and `control` are numbers of rows that stand out or stand back.

    Args:
        control_columns: columns that stand back.
        status: row -> good, suspicious or broken; the cell that says so gets its colour.
        prose: whether the last column is a sentence, which may wrap.
        caption: said above the table.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()
    control: frozenset[int] = frozenset()
    control_columns: frozenset[int] = frozenset()
    status: Mapping[int, str] = field(default_factory=dict)
    prose: bool = False
    caption: str = ""

    def html(self) -> str:
        """As HTML; every cell is escaped."""
        head = "".join(self._cell("th", cell, i, "") for i, cell in enumerate(self.head))
        rows = []
        for i, row in enumerate(self.rows):
            said = self.status.get(i, "")
            kinds = ["strong"] * (i in self.strong) + ["control"] * (i in self.control) + [said] * bool(said)
            cells = "".join(self._cell("td", cell, column, said) for column, cell in enumerate(row))
            rows.append(f'<tr class="{" ".join(kinds)}">{cells}</tr>' if kinds else f"<tr>{cells}</tr>")
        above = f"<p>{html.escape(self.caption)}</p>" if self.caption else ""
        return f'{above}<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'

    def _cell(self, tag: str, cell: str, column: int, status: str) -> str:
        kinds = ["prose"] * (self.prose and column == len(self.head) - 1)
        kinds += ["control"] * (column in self.control_columns) + ["status"] * bool(status and cell == status)
        mark = f' class="{" ".join(kinds)}"' if kinds else ""
        return f"<{tag}{mark}>{html.escape(cell)}</{tag}>"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG and what it shows."""

    png: bytes
    caption: str

    def html(self) -> str:
        """As HTML, the picture inside."""
        data = base64.b64encode(self.png).decode()
        text = html.escape(self.caption, quote=True)
        return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, what to know before reading on, and what is shown. Text is plain and gets escaped.

    Args:
        warning: said in red above everything.
        code: shown as it stands, folded away.
    """

    title: str
    text: str = ""
    warning: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    code: str = ""

    def html(self) -> str:
        """As HTML."""
        parts = [f"<h2>{html.escape(self.title)}</h2>"]
        if self.warning:
            parts.append(f'<p class="warn">{html.escape(self.warning)}</p>')
        if self.text:
            parts.append(f"<p>{html.escape(self.text)}</p>")
        parts += [table.html() for table in self.tables]
        parts += [picture.html() for picture in self.pictures]
        if self.code:
            parts.append(f"<details><summary>show</summary><pre>{html.escape(self.code)}</pre></details>")
        return f"<section>{''.join(parts)}</section>"


@dataclass(kw_only=True)
class Report:
    """A page under construction: add sections in the order in which they are read, then write it."""

    title: str
    text: str = ""
    sections: list[Section] = field(default_factory=list)

    def add(self, *sections: Section) -> None:
        """Append sections."""
        self.sections += sections

    def write(self, path: Path | str) -> Path:
        """Write the page at once; returns its path."""
        return write_report(path, self.title, self.sections, text=self.text)


def write_report(path: Path | str, title: str, sections: Sequence[Section], *, text: str = "") -> Path:
    """Write one self-contained HTML file, atomically; returns its path."""
    path = Path(path)
    body = "\n".join(section.html() for section in sections)
    intro = f"<p>{html.escape(text)}</p>" if text else ""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>{intro}\n{body}\n</body></html>\n"
    )
    write_atomically(path, page.encode())
    return path
