"""`cyclemimic data check`: look at a source once, print what matters, draw a page, list what to do without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclemimic.data.advice import Advice, advice_on
from cyclemimic.data.cache import source_hash
from cyclemimic.data.check import GAP_S, SourceReport, check_clips
from cyclemimic.data.check_journal import CheckJournal
from cyclemimic.data.skip import DROPPED, skips_of, write_skips
from cyclemimic.errors import InputError
from cyclemimic.evaluate.data_page import write_data_page
from cyclemimic.store.atomic import alone_in, sha256_json
from cyclemimic.train.progress import Progress
from cyclemimic.types import Source

CHECKS = Path("runs/check")
ADVICE = 12  # lines on a terminal; the page has all


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found, what follows from it, and where it was drawn."""

    report: SourceReport
    advice: tuple[Advice, ...]
    page: Path


def check_source(
    source: Source,
    *,
    gap_s: float = GAP_S,
    page: Path | None = None,
    drop: Path | None = None,
    drop_kinds: Sequence[str] = DROPPED,
) -> Checked:
    """Print what a source holds, clip by clip decoded, and what of it will hurt training; draw it all as a page.

    What was found is noted beside the page clip by clip: a check that was stopped goes on, and one of the same content
    decodes nothing but what it draws.

    Args:
        source: what to look at.
        gap_s: over which motion is looked for [s].
        page: the page; `CHECKS`/NAME.html unless given.
        drop: where to write clips that are better left out, for the source's option `?skip=`.
        drop_kinds: which kinds are written there, see `skips_of`.

    Raises:
        InputError: no clip is usable; what was found is printed and drawn all the same.
    """
    page = page or CHECKS / f"{page_name(source.name)}.html"
    skips_of(SourceReport(name=source.name, gap_s=gap_s, clips=()), drop_kinds)  # a wrong kind is said at once
    notes = page.with_suffix(".found")
    with alone_in(notes):
        journal = CheckJournal(notes / "clips.jsonl", source_hash(source), gap_s)
        progress = Progress(name="check", total=len(source.clips()), done=len(journal.known))
        try:
            report = check_clips(
                source,
                gap_s=gap_s,
                known=journal.known,
                found=journal.add,
                progress=lambda done, _: progress.update(done),
            )
        finally:
            journal.close()
    advice = advice_on(report)
    for line in report.lines():
        print(line)
    for one in advice[:ADVICE]:
        print(one.text())
    if len(advice) > ADVICE:
        print(f"   ... and {len(advice) - ADVICE} more, on the page")
    drawn = Progress(name="draw", total=1)

    def say(done: int, total: int) -> None:
        drawn.total = total
        drawn.update(done)

    write_data_page(page, source, report, advice, say)
    print(f"page: {page}")
    if drop is not None:
        _drop(drop, source, report, drop_kinds)
    if not report.usable:
        raise InputError(source.name, expected="a usable clip", got="none", remedy="See the lines above.")
    return Checked(report=report, advice=tuple(advice), page=page)


def _drop(path: Path, source: Source, report: SourceReport, kinds: Sequence[str]) -> None:
    skips = skips_of(report, kinds)
    write_skips(path, source.name, skips)
    if skips:
        mark = "&" if "?" in source.name else "?"
        print(f"{len(skips)} clips to do without: {path}; go on with '{source.name}{mark}skip={path}'")
    else:
        print(f"no clip to do without; {path} is empty")


def page_name(source: str) -> str:
    """A file's name for a source: its kind, the end of its path, and a few letters so that none is taken twice."""
    kind, _, rest = source.partition(":")
    words = re.findall(r"[A-Za-z0-9_.-]+", f"{kind} {Path(rest.partition('?')[0]).name}")
    return "-".join([*words, sha256_json(source)[:6]])
