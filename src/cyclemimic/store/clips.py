"""What is known of many clips, as arrays: a million of them need no million objects. Numpy only. Engineering."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cyclemimic.types import ClipInfo, Float64, Int64

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """The numbers of n clips."""

    num_frames: Int64  # [n]
    fps: Float64  # [n], Hz
    body: NDArray[np.int32]  # [n], into `bodies`
    bodies: tuple[str, ...]  # in any order; some may have no clip

    def __len__(self) -> int:
        return len(self.num_frames)

    @property
    def embodiments(self) -> tuple[str, ...]:
        """The bodies that have a clip, sorted, each once."""
        return tuple(sorted(self.bodies[b] for b in np.unique(self.body)))

    def chosen(self, rows: Int64) -> ClipFacts:
        """Those of some clips [m]."""
        return ClipFacts(num_frames=self.num_frames[rows], fps=self.fps[rows], body=self.body[rows], bodies=self.bodies)


class LazyRows(Sequence[T]):
    """A sequence whose entries are made when asked for, one after another or in any order."""

    def __init__(self, rows: Int64) -> None:
        self._rows = rows  # [n]: where each entry lies in what it is made from

    @abstractmethod
    def _made(self, row: int) -> T:
        """The entry of a row."""

    @abstractmethod
    def chosen(self, entries: Int64) -> LazyRows[T]:
        """The same with these entries [m] only; nothing is made."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # noqa: ANN001  as `Sequence` has it
        if isinstance(i, slice):
            return tuple(self._made(row) for row in self._rows[i].tolist())
        return self._made(int(self._rows[i]))


class ClipTable(LazyRows[ClipInfo]):
    """Clips whose numbers lie in arrays and whose words are looked up when a clip is asked for."""

    facts: ClipFacts

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The clips' names in order, and nothing else of them."""

    @abstractmethod
    def licences(self) -> Iterator[str | None]:
        """Their licences in order, and nothing else of them."""


class CutTable(Sequence[Int64]):
    """Where new shots begin in each of n clips, as two arrays.

    Args:
        counts: how many cuts each clip has [n].
        frames: the frames with which a new shot begins, clip after clip, ascending in each [cuts].
    """

    def __init__(self, counts: Int64, frames: Int64) -> None:
        self.counts, self.frames = counts, frames
        self._first: Int64 = np.cumsum(counts) - counts

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # noqa: ANN001  as `Sequence` has it
        if isinstance(i, slice):
            return tuple(self[n] for n in range(*i.indices(len(self))))
        first = int(self._first[i])
        return self.frames[first : first + int(self.counts[i])]

    def chosen(self, entries: Int64) -> CutTable:
        """The same of these clips [m] only."""
        counts = self.counts[entries]
        place = np.repeat(self._first[entries] - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        return CutTable(counts, self.frames[place])


def chosen(entries: Sequence[T], which: Int64) -> Sequence[T]:
    """Some entries [m] of a sequence, in their order."""
    if isinstance(entries, LazyRows):
        return entries.chosen(which)
    if isinstance(entries, CutTable):
        return entries.chosen(which)  # type: ignore[return-value]  # whose entries are T
    return tuple(entries[i] for i in which.tolist())


def facts_of(clips: Sequence[ClipInfo]) -> ClipFacts:
    """The numbers of clips; of a table they are there already."""
    if isinstance(clips, ClipTable):
        return clips.facts
    bodies: dict[str, int] = {}
    return ClipFacts(
        num_frames=np.array([c.num_frames for c in clips], np.int64),
        fps=np.array([c.fps for c in clips], np.float64),
        body=np.array([bodies.setdefault(c.embodiment, len(bodies)) for c in clips], np.int32),
        bodies=tuple(bodies),
    )


def names_of(clips: Sequence[ClipInfo]) -> Iterator[str]:
    """The names of clips in order; no clip of a table is made."""
    return clips.names() if isinstance(clips, ClipTable) else (clip.name for clip in clips)


def licences_in(clips: Sequence[ClipInfo]) -> Iterator[str | None]:
    """The licences of clips in order; no clip of a table is made."""
    return clips.licences() if isinstance(clips, ClipTable) else (clip.licence for clip in clips)
