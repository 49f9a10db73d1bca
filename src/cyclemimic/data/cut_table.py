"""The cuts of video that no cache holds: found once, a row per episode of the index, and looked up then. Engineering.

A start on a million episodes reads two columns. What is found is kept as store/episode_rows.py says: a search that was
killed goes on, and after an episode changed only that one is decoded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cyclemimic.data.cuts import METHOD, find_cuts
from cyclemimic.data.filed import IndexedVideos, video_of
from cyclemimic.data.seek import OpenVideo
from cyclemimic.data.unkept import VideoFrames
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.clips import CutTable
from cyclemimic.store.episode_rows import Progress, build_rows, content_of, notes_of
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Int64

FORMAT = "cyclemimic-cuts-1"
SCHEMA = pa.schema(
    [
        ("cuts", pa.list_(pa.int32())),  # the frames with which a new shot begins
        ("fault", pa.string()),  # why the episode could not be decoded
        ("mark", pa.string()),  # that of the index
    ]
)


def cut_table(
    cache: FrameCache,
    path: Path,
    *,
    threads: int = 1,
    progress: Progress | None = None,
    known: Mapping[int, Int64] | None = None,
) -> tuple[CutTable, int]:
    """The cuts of every clip of what `open_videos` made of an index, and how many clips could not be decoded.

    A clip that could not be decoded is cut at every frame: it has no pair, and stops nothing.

    Args:
        cache: frames that are decoded when asked for.
        path: a Parquet file that keeps the cuts of all episodes of the index.
        threads: how many clips are decoded at once.
        progress: is given the number of episodes done and of all.
        known: cuts of some rows of the index that need not be found again.
    """
    frames = cast(VideoFrames, cache.frames)
    videos = cast(IndexedVideos, frames.indices)
    index, now = videos.episodes, made_of(cache)
    if _noted(path) != now:
        marks = [mark for _, table in index.columns(["mark"]) for mark in table["mark"].to_pylist()]

        def make(row: int) -> dict[str, Any]:
            if known is not None and row in known:
                return {"cuts": known[row].tolist(), "fault": None}
            if index.frames[row] < 2:
                return {"cuts": [], "fault": None}
            video = video_of(videos.source, index.row(row))
            try:
                opened = OpenVideo(video)
                try:
                    pictures = np.stack([frames.square(opened.picture(t)) for t in range(len(video.shown))])
                finally:
                    opened.close()
            except InputError as error:
                return {"cuts": list(range(1, len(video.shown))), "fault": str(error)}
            return {"cuts": find_cuts(pictures).tolist(), "fault": None}

        build_rows(
            path, SCHEMA, marks, make,
            kind=_kind(cache), state=now, threads=threads, progress=progress, notes=lambda tables: {"made_of": now},
        )  # fmt: skip
    table = pq.read_table(path, columns=["cuts", "fault"])
    cuts = table["cuts"].combine_chunks()
    every = CutTable(
        cuts.value_lengths().to_numpy().astype(np.int64), cuts.flatten().to_numpy().astype(np.int64)
    )  # fmt: skip
    bad = np.flatnonzero(table["fault"].is_valid().to_numpy())
    return every.chosen(videos.rows), int(np.isin(bad, videos.rows).sum())


def made_of(cache: FrameCache) -> str:
    """What decides the cuts of all episodes of the index behind a cache; a file of cuts notes it."""
    videos = cast(IndexedVideos, cast(VideoFrames, cache.frames).indices)
    return sha256_json([_kind(cache), content_of(videos.episodes.path)])


def _kind(cache: FrameCache) -> list[str | int]:
    return [FORMAT, METHOD, cache.resampler, cache.size_px]


def _noted(path: Path) -> str | None:
    """What a file of cuts was made of; None where there is none or it is damaged: finding them again is the remedy."""
    try:
        return notes_of(pq.read_schema(path)).get("made_of")
    except (pa.ArrowException, OSError):
        return None
