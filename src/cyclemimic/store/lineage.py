"""Where data comes from and under which licences: what travels from a source to labels, weights and exports.

A licence that nobody states is `unknown` and stays so; none is guessed. Engineering.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.store.clips import licences_in
from cyclemimic.types import ClipInfo

UNKNOWN = "unknown"
FILE = "lineage.json"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One source that something was made from.

    Args:
        name: of the source, without folders of the machine it lay on.
        content: its hash.
        clips: how many were used.
        licences: how many of them are under each licence, `unknown` included.
        origin: its public address, with the revision where it has one; None for local files.
        share: of the draws of a training; 1 for a source alone.
        bodies: who is seen.
    """

    name: str
    content: str
    clips: int
    licences: Mapping[str, int]
    origin: str | None = None
    share: float = 1.0
    bodies: tuple[str, ...] = ()


def licences_of(clips: Sequence[ClipInfo]) -> dict[str, int]:
    """How many clips are under each licence, in order of its name; those of which nothing is stated as `unknown`."""
    return dict(sorted(Counter(licence or UNKNOWN for licence in licences_in(clips)).items()))


def licence_text(licences: Mapping[str, int]) -> str:
    """In words: `CC-BY-4.0 (12 clips), unknown (3 clips)`."""
    shown = [f"{' '.join(name.split())} ({n} clip{'s' * (n != 1)})" for name, n in sorted(licences.items())]
    return ", ".join(shown) or UNKNOWN


def save_lineage(folder: Path, **parts: Sequence[Lineage]) -> None:
    """Write what the things in `folder` were made from, such as `data=` and `tokenizer=`."""
    write_json(folder / FILE, {part: [asdict(one) for one in found] for part, found in parts.items()})


def read_lineage(folder: Path) -> dict[str, tuple[Lineage, ...]]:
    """What `save_lineage` wrote; empty where there is none, as beside older weights."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        return {part: tuple(_lineage(row) for row in rows) for part, rows in read_json(path).items()}
    except (KeyError, TypeError, ValueError) as error:
        remedy = "It is damaged or not ours; delete it, and what it says is unknown."
        raise InputError(path, expected="where data comes from", got=f"a fault at {error}", remedy=remedy) from None


def _lineage(row: Mapping[str, Any]) -> Lineage:
    return Lineage(**{**row, "bodies": tuple(row.get("bodies", ()))})
