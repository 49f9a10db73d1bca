"""A list of clips that a source is to be read without, and why: a JSON file that people may edit. Engineering.

{"format": "cyclemimic-skip-1", "source": "folder:VIDEOS",
 "clips": [{"clip": "arm/007.mp4", "kind": "duplicate", "reason": "shows what arm/003.mp4 shows"}]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from cyclemimic.data.check import SourceReport
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json, write_json

FORMAT = "cyclemimic-skip-1"
Kind = Literal["unreadable", "duplicate", "still", "short", "camera"]
DROPPED: tuple[Kind, ...] = ("unreadable", "duplicate", "still", "short")  # a moving camera may be stabilised instead


@dataclass(frozen=True, kw_only=True)
class Skip:
    """One clip to do without."""

    clip: str
    kind: str
    reason: str


def skips_of(report: SourceReport, kinds: Sequence[str] = DROPPED) -> list[Skip]:
    """Clips that are better left out, in the report's order; of duplicates the first one stays.

    Raises:
        InputError: an unknown kind.
    """
    for kind in kinds:
        if kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise InputError("--drop-kinds", expected=f"of {known}", got=repr(kind), remedy="Name those to drop.")
    twins = {twin.info.name: (of.info.name, found.exact) for twin, of, found in report.duplicates}
    out: list[Skip] = []
    for check in report.clips:
        name, why = check.info.name, dict[str, str]()
        if check.fault is not None:
            why["unreadable"] = check.fault
        elif name in twins:
            why["duplicate"] = f"shows what {twins[name][0]} shows" + (", exactly" if twins[name][1] else "")
        if check.is_still:
            why["still"] = f"nothing moves in {check.still_pairs} of {check.pairs} pairs"
        if check.fault is None and check.pairs == 0:
            why["short"] = f"no pair {report.gap_s:g} s apart in {check.info.num_frames} frames"
        if check.camera is not None and check.camera.moves:
            why["camera"] = f"the camera moves: {check.camera.text()}"
        first = next((kind for kind in why if kind in kinds), None)
        if first is not None:
            out.append(Skip(clip=name, kind=first, reason=why[first]))
    return out


def write_skips(path: Path | str, source: str, skips: Sequence[Skip]) -> None:
    """Write the list, atomically."""
    write_json(path, {"format": FORMAT, "source": source, "clips": [asdict(skip) for skip in skips]})


def read_skips(path: Path | str) -> dict[str, str]:
    """Why each clip of the list is left out, by the clip's name.

    Raises:
        InputError: there is no such file, or it is no such list; names the entry.
    """
    found = read_json(path)
    if found.get("format") != FORMAT or not isinstance(found.get("clips"), list):
        expected, remedy = f"a list of format {FORMAT!r}", "`cyclemimic data check SOURCE --drop LIST.json` writes one."
        raise InputError(path, expected=expected, got=repr(found.get("format")), remedy=remedy)
    out: dict[str, str] = {}
    for number, row in enumerate(found["clips"]):
        if not isinstance(row, dict) or not isinstance(row.get("clip"), str):
            remedy = 'Write for example {"clip": "arm/007.mp4", "reason": "too dark"}.'
            raise InputError(f"{path}, clips[{number}]", expected="an object with 'clip'", got=repr(row), remedy=remedy)
        out[row["clip"]] = str(row.get("reason", ""))
    return out
