"""One Parquet file that says of every episode of a source what reading its frames needs; no pixels. Engineering.

A row per episode, see `SCHEMA`, built as store/episode_rows.py says. An episode's mark is made from its name, its
file's size and time, and what is said of it elsewhere, so files that changed are looked at again, and no others. The
file's notes hold the fingerprint of the source: of a large one nobody looks at every file again.

Any Parquet reader can use the file without this package.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.store.clips import ClipFacts, ClipTable
from cyclemimic.store.episode_rows import Progress, build_rows, mark_of, notes_of, write_rows
from cyclemimic.types import ClipInfo, Float64, Int64

FORMAT = "cyclemimic-index-2"
KEPT_GROUPS = 32  # of those read last
BATCH_ROWS = 512
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),  # where the episode lies, as its source names it
        ("stream", pa.int32()),  # which stream of the file
        ("frames", pa.int64()),  # at a constant rate; 0 where the episode is of no use
        ("fps", pa.float64()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        ("key_times_s", pa.list_(pa.float64())),  # when key frames are shown
        ("key_frames", pa.list_(pa.int32())),  # their numbers in the file
        ("first_pts", pa.int64()),  # of the first frame, in the stream's units
        ("step_pts", pa.int64()),  # from frame to frame; 0 where uneven
        ("pts", pa.list_(pa.int64())),  # of every frame, where uneven
        ("shown", pa.list_(pa.int32())),  # which frame is on display at t / fps, where uneven
        ("embodiment", pa.dictionary(pa.int32(), pa.string())),
        ("instruction", pa.string()),
        ("licence", pa.string()),
        ("fault", pa.string()),  # why it is of no use
        ("size_bytes", pa.int64()),  # of its file; -1 where it could not be read
        ("mtime_ns", pa.int64()),  # when its file was changed; 0 where nobody knows
        ("edges", pa.string()),  # a hash of its file's ends
        ("content", pa.list_(pa.string())),  # what the source's fingerprint is made from, see `Fingerprints`
        ("mark", pa.string()),
    ]
)
_NOT_IN_ROWS = ("content", "mark")  # which nobody needs to read frames
_ROW = [name for name in SCHEMA.names if name not in _NOT_IN_ROWS]


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """One row; see `SCHEMA`."""

    uri: str
    embodiment: str
    fps: float
    frames: int = 0
    stream: int = 0
    height_px: int = 0
    width_px: int = 0
    key_times_s: Sequence[float] = ()
    key_frames: Sequence[int] = ()
    first_pts: int = 0
    step_pts: int = 0
    pts: Sequence[int] = ()
    shown: Sequence[int] = ()
    instruction: str | None = None
    licence: str | None = None
    fault: str | None = None
    size_bytes: int = -1
    mtime_ns: int = 0
    edges: str = ""
    content: Sequence[str] = ()  # is written, and not read again


class _Groups:
    """The row groups of an index, the file opened once; those read last are kept. Threads take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = _file(path)
        metadata, self.notes = self._file.metadata, notes_of(self._file.schema_arrow)
        lengths = [metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self.edges: Int64 = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.edges) - 1

    def read(self, group: int, columns: list[str] | None) -> Any:
        """Some columns of one group, or all."""
        with self._lock:
            return _read(self._file, group, columns, self.path)

    def row(self, i: int) -> EpisodeRow:
        """One row."""
        group = int(np.searchsorted(self.edges, i, side="right")) - 1
        with self._lock:
            table = self._kept.pop(group, None)
            if table is None:
                table = _read(self._file, group, _ROW, self.path)
            self._kept[group] = table
            if len(self._kept) > KEPT_GROUPS:
                self._kept.popitem(last=False)
        return EpisodeRow(**table.slice(i - int(self.edges[group]), 1).to_pylist()[0])


@dataclass(frozen=True, kw_only=True)
class EpisodeIndex:
    """An index opened for reading: the narrow columns lie in memory, everything else is read when asked for."""

    path: Path
    frames: Int64  # [n]
    fps: Float64  # [n]
    body: NDArray[np.int32]  # [n], into `bodies`
    bodies: tuple[str, ...]
    groups: _Groups = field(repr=False, compare=False)

    @property
    def notes(self) -> dict[str, str]:
        """What was noted of the source as a whole when it was indexed."""
        return self.groups.notes

    @classmethod
    def open(cls, path: Path | str) -> EpisodeIndex:
        """Open an index. InputError where there is none, or it is damaged."""
        path = Path(path)
        groups = _Groups(path)
        count = int(groups.edges[-1])
        frames, fps, body = np.empty(count, np.int64), np.empty(count), np.empty(count, np.int32)
        bodies: dict[str, int] = {}
        for group in range(len(groups)):
            table = groups.read(group, ["frames", "fps", "embodiment"])
            here = slice(int(groups.edges[group]), int(groups.edges[group + 1]))
            frames[here], fps[here] = table["frames"].to_numpy(), table["fps"].to_numpy()
            chunks = table["embodiment"].chunks
            known = ([bodies.setdefault(b, len(bodies)) for b in c.dictionary.to_pylist()] for c in chunks)
            parts = [np.array(k, np.int32)[c.indices.to_numpy()] for k, c in zip(known, chunks, strict=True)]
            body[here] = np.concatenate(parts)
        return cls(path=path, frames=frames, fps=fps, body=body, bodies=tuple(bodies), groups=groups)

    def __len__(self) -> int:
        """Number of episodes, those of no use included."""
        return len(self.frames)

    def row(self, i: int) -> EpisodeRow:
        """Everything about one episode; its row group is read, unless it was of late."""
        return self.groups.row(i)

    def rows(self) -> Iterator[EpisodeRow]:
        """Every episode in order, one row group in memory at a time."""
        for group in range(len(self.groups)):
            for batch in self.groups.read(group, _ROW).to_batches(max_chunksize=BATCH_ROWS):
                for row in batch.to_pylist():
                    yield EpisodeRow(**row)

    def columns(self, names: Sequence[str]) -> Iterator[tuple[slice, Any]]:
        """Some columns, row group by row group: which rows, and their Arrow table."""
        for group in range(len(self.groups)):
            here = slice(int(self.groups.edges[group]), int(self.groups.edges[group + 1]))
            yield here, self.groups.read(group, list(names))


class IndexedClips(ClipTable):
    """The clips of some rows of an index."""

    def __init__(self, index: EpisodeIndex, rows: Int64) -> None:
        super().__init__(rows)
        self._index = index
        every = ClipFacts(num_frames=index.frames, fps=index.fps, body=index.body, bodies=index.bodies)
        self.facts = every if len(rows) == len(index) else every.chosen(rows)

    def chosen(self, entries: Int64) -> IndexedClips:
        """The same with these clips [m] only."""
        return IndexedClips(self._index, self._rows[entries])

    def __iter__(self) -> Iterator[ClipInfo]:
        """All clips; where their rows ascend, one row group is in memory at a time."""
        for row, name, instruction, licence in self._words(("uri", "instruction", "licence")):
            yield self._clip(row, name, instruction, licence)

    def names(self) -> Iterator[str]:
        """Their names in order."""
        return (name for _, name in self._words(("uri",)))

    def licences(self) -> Iterator[str | None]:
        """Their licences in order."""
        return (licence for _, licence in self._words(("licence",)))

    def _words(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Row, and what it says, of every clip."""
        if not (np.diff(self._rows) > 0).all():
            yield from ((row, *(getattr(self._index.row(row), c) for c in columns)) for row in self._rows.tolist())
            return
        for here, table in self._index.columns(columns):
            first, last = np.searchsorted(self._rows, [here.start, here.stop])
            rows = self._rows[first:last]
            mine = table.take(rows - here.start)
            yield from zip(rows.tolist(), *(mine[c].to_pylist() for c in columns), strict=True)

    def _made(self, row: int) -> ClipInfo:
        said = self._index.row(row)
        return self._clip(row, said.uri, said.instruction, said.licence)

    def _clip(self, row: int, name: str, instruction: str | None, licence: str | None) -> ClipInfo:
        index = self._index
        return ClipInfo(
            name=name,
            embodiment=index.bodies[index.body[row]],
            fps=float(index.fps[row]),
            num_frames=int(index.frames[row]),
            instruction=instruction,
            licence=licence,
        )


def build_index(
    path: Path | str,
    names: Sequence[str],
    describe: Callable[[str], EpisodeRow],
    state_of: Callable[[str], Any],
    *,
    threads: int = 1,
    progress: Progress | None = None,
    about: str = "",
    notes: Callable[[Iterator[str]], Mapping[str, str]] | None = None,
) -> EpisodeIndex:
    """Make or go on with the index of `names`, in their order; one that is up to date is kept.

    Args:
        path: the Parquet file.
        names: of all episodes.
        describe: looks at one episode; called by several threads.
        state_of: such as bytes and time of an episode's file, as JSON has it; another state is another episode.
        threads: how many look at once.
        progress: is given the number of episodes done and of all.
        about: what decides the notes beside the episodes; other rows stay.
        notes: what is noted of the whole, from the `content` of all episodes in order.
    """
    path = Path(path)

    def noted(tables: Iterator[Any]) -> Mapping[str, str]:
        lines = (line for table in tables for told in table["content"].to_pylist() for line in told)
        return {"about": about, **({} if notes is None else notes(lines))}

    build_rows(
        path,
        SCHEMA,
        [mark_of([name, state_of(name)]) for name in names],
        lambda i: asdict(describe(names[i])),
        kind=FORMAT,
        state=about,
        threads=threads,
        progress=progress,
        notes=noted,
    )
    return EpisodeIndex.open(path)


def write_index(path: Path | str, tables: Iterator[Any], content: str, notes: Mapping[str, str] | None = None) -> None:
    """Write tables of `SCHEMA` as one index; one row group in memory at a time.

    `content` is a hash of what the rows were made from, `notes` what is known of the whole.
    """
    write_rows(path, tables, SCHEMA, content, notes)


def _file(path: Path) -> Any:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    if file.schema_arrow.names != SCHEMA.names:
        raise _damaged(path, ValueError(f"columns {file.schema_arrow.names}"))
    return file


def _read(file: Any, group: int, columns: list[str] | None, path: Path) -> Any:
    try:
        return file.read_row_group(group, columns=columns)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    remedy = "Delete it and run `cyclemimic data index SOURCE` again."
    return InputError(path, expected="a whole index", got=str(error).splitlines()[0], remedy=remedy)
