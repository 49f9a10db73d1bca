"""Sources whose clips are files, and the index of one: what is known of a million files, unopened. Engineering.

Letters in shapes: m clips, n frames of a file, T frames at a constant rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cyclemimic.data.cache import source_hash
from cyclemimic.data.seek import THE_CACHE, VideoIndex, index_video
from cyclemimic.data.stamp import FileStamp, size_and_time_of, stamp_of
from cyclemimic.errors import InputError
from cyclemimic.store.clips import LazyRows
from cyclemimic.store.index import EpisodeIndex, EpisodeRow, build_index
from cyclemimic.types import ClipInfo, Int64, Source

LARGE = 50_000  # episodes: of an index of so many no file is looked at before it is opened


@runtime_checkable
class Filed(Protocol):
    """A source whose clips are files."""

    def names(self) -> Sequence[str]:
        """The names of all clips, in order."""
        ...

    def describe(self, name: str) -> ClipInfo:
        """One clip's facts, from its file's header."""
        ...

    def file_of(self, name: str) -> Path:
        """Where a clip lies."""
        ...

    def rate_of(self, name: str) -> float | None:
        """The rate [Hz] that counts instead of what the file says; None: what the file says."""
        ...


@runtime_checkable
class Described(Protocol):
    """A source that says of its clips what their files do not say."""

    def told_of(self, name: str) -> str:
        """What is said of a clip beside its file, as text; no file of a clip is looked at."""
        ...

    def beside(self) -> str:
        """Changes with whatever is said of any clip, or with which clips there are beside their files; cheap."""
        ...


@runtime_checkable
class Fingerprints(Protocol):
    """A source whose fingerprint is made from what is said of one clip after another."""

    def content_of(self, name: str) -> Sequence[str]:
        """What of it belongs to a name of `names`; looks at its file."""
        ...

    def fingerprint_from(self, content: Iterable[str]) -> str:
        """The source's fingerprint from the content of all its names in order."""
        ...


def episode_row(source: Filed, name: str) -> EpisodeRow:
    """What an index holds of one clip; a clip that cannot be sought in has no frames, and `fault` says why."""
    # First: if the file changes while it is looked at, opening it will say so.
    stamp, info = stamp_of(source.file_of(name)), source.describe(name)
    bare = EpisodeRow(
        uri=name,
        embodiment=info.embodiment,
        fps=info.fps,
        instruction=info.instruction,
        licence=info.licence,
        size_bytes=stamp.size_bytes,
        mtime_ns=stamp.mtime_ns,
        edges=stamp.edges,
    )
    try:
        video = index_video(source.file_of(name), fps=source.rate_of(name))
    except InputError as error:
        return replace(bare, fault=str(error))
    steps = np.diff(video.pts)
    even = bool((steps == steps[0]).all() and len(video.shown) == len(video.pts))
    return replace(
        bare,
        fps=video.fps,
        frames=len(video.shown),
        stream=video.stream,
        height_px=video.height_px,
        width_px=video.width_px,
        key_times_s=(np.searchsorted(video.shown, video.keys) / video.fps).tolist(),
        key_frames=video.keys.tolist(),
        first_pts=int(video.pts[0]),
        step_pts=int(steps[0]) if even else 0,
        pts=() if even else video.pts.tolist(),
        shown=() if even else video.shown.tolist(),
    )


def video_of(source: Filed, row: EpisodeRow) -> VideoIndex:
    """What `index_video` found, from an index's row."""
    even = row.step_pts > 0
    stamp = FileStamp(size_bytes=row.size_bytes, mtime_ns=row.mtime_ns, edges=row.edges)
    return VideoIndex(
        path=source.file_of(row.uri),
        pts=row.first_pts + row.step_pts * np.arange(row.frames) if even else np.array(row.pts, np.int64),
        keys=np.array(row.key_frames, np.int64),
        shown=np.arange(row.frames) if even else np.array(row.shown, np.int64),
        fps=row.fps,
        stream=row.stream,
        height_px=row.height_px,
        width_px=row.width_px,
        stamp=stamp if stamp.size_bytes >= 0 else None,
    )


def index_source(
    source: Source, path: Path, *, threads: int = 1, progress: Callable[[int, int], None] | None = None
) -> EpisodeIndex:
    """The index of a source, made once and kept at `path`; goes on where a killed build stopped.

    Raises:
        InputError: a source whose clips are no files.
    """
    if not isinstance(source, Filed):
        raise InputError(source.name, expected="a source that names its clips' files", got="none", remedy=THE_CACHE)
    files: Filed = source
    described = source if isinstance(source, Described) else None

    def row_of(name: str) -> EpisodeRow:
        row = episode_row(files, name)
        return replace(row, content=source.content_of(name)) if isinstance(source, Fingerprints) else row

    def state_of(name: str) -> list[Any]:
        return [*size_and_time_of(files.file_of(name)), "" if described is None else described.told_of(name)]

    def notes(content: Iterator[str]) -> Mapping[str, str]:
        made = source.fingerprint_from(content) if isinstance(source, Fingerprints) else source_hash(source)
        return {"source_hash": made}

    return build_index(
        path,
        files.names(),
        row_of,
        state_of,
        threads=threads,
        progress=progress,
        about="" if described is None else described.beside(),
        notes=notes,
    )


def large_index(source: Source, path: Path) -> EpisodeIndex | None:
    """The index of a large source that is there already: it is taken at its word, and no file is looked at.

    A file that changed since is an InputError when it is opened; files that came since are found by `index_source`.
    None: none is there, it is damaged, small, or what is said of the clips beside their files changed.
    """
    if not path.exists():
        return None
    try:
        index = EpisodeIndex.open(path)
    except InputError:
        return None
    about = source.beside() if isinstance(source, Described) else ""
    return index if len(index) >= LARGE and index.notes.get("about") == about and content_of(index) else None


def content_of(index: EpisodeIndex) -> str | None:
    """The fingerprint of a large source when it was indexed; None of a small one, which may well be looked at."""
    return index.notes.get("source_hash") if len(index) >= LARGE else None


class IndexedVideos(LazyRows[VideoIndex]):
    """What reading the files of some rows of an index needs; looked up when asked for."""

    def __init__(self, source: Filed, index: EpisodeIndex, rows: Int64) -> None:
        super().__init__(rows)
        self._source, self._index = source, index
        self.lengths: Int64 = index.frames[rows]

    @property
    def source(self) -> Filed:
        """Whose files these are."""
        return self._source

    @property
    def episodes(self) -> EpisodeIndex:
        """Where they stand."""
        return self._index

    @property
    def rows(self) -> Int64:
        """Which rows of the index these are [m]."""
        return self._rows

    def chosen(self, entries: Int64) -> IndexedVideos:
        """The same with these files [m] only."""
        return IndexedVideos(self._source, self._index, self._rows[entries])

    def key_places(self, offsets: Int64) -> Int64:
        """See `VideoFrames.key_places`; the rows of an index ascend."""
        found: list[Int64] = []
        for here, table in self._index.columns(["key_frames", "step_pts", "shown"]):
            first, last = np.searchsorted(self._rows, [here.start, here.stop])
            mine = table.take(self._rows[first:last] - here.start)
            keys = mine["key_frames"].combine_chunks()
            counts, flat = keys.value_lengths().to_numpy(), keys.flatten().to_numpy().astype(np.int64)
            starts = np.cumsum(counts) - counts
            for i in np.flatnonzero(mine["step_pts"].to_numpy() == 0).tolist():
                here_keys = slice(int(starts[i]), int(starts[i] + counts[i]))
                flat[here_keys] = np.searchsorted(mine["shown"][i].values.to_numpy(), flat[here_keys])
            found.append(flat + np.repeat(offsets[first:last] + np.arange(first, last), counts))
        return np.concatenate(found)

    def _made(self, row: int) -> VideoIndex:
        return video_of(self._source, self._index.row(row))
