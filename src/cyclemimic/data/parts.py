"""A long video as several clips, so that none is held in memory as a whole. Numpy only. Engineering.

A video that lasts longer than `LONG_S`, or would not fit into memory, becomes clips of `PART_S`: kitchen.mp4 becomes
kitchen__part0000.mp4, kitchen__part0001.mp4 and on. Where a part begins depends on the video's rate alone, and not on
what it shows: names and labels stay the same whatever finds scene cuts, at whatever size, and nothing need be decoded
to know them. Scene cuts are found within every clip afterwards (data/cuts.py), and no pair lies across one. Parts of
one recording stay on one side of a split (`recording_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from cyclemimic.types import ClipInfo, Episode, Source, UInt8

LONG_S, PART_S = 120.0, 60.0
MAX_CLIP_BYTES = 8 << 30  # a clip that is no part is decoded into memory as a whole
Shrink = Callable[[UInt8], UInt8]  # pictures [n, H, W, 3] to pictures [n, H', W', 3]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Frames `start` to `stop` of the clip `whole`, at a constant rate."""

    name: str
    whole: str
    start: int
    stop: int


@runtime_checkable
class Cutting(Protocol):
    """A source that lists long video in parts and reads them bit by bit."""

    cuts_long: bool

    def read_shrunk(self, clip: ClipInfo, shrink: Shrink) -> Episode:
        """As `read`, but every picture goes through `shrink` as soon as it is decoded."""
        ...


def parts_of(whole: str, num_frames: int, fps: float, height_px: int, width_px: int) -> tuple[Part, ...]:
    """The parts of a clip; none where it may stay whole. A rest of less than half a part joins the last one."""
    fits = num_frames * height_px * width_px * 3 <= MAX_CLIP_BYTES
    each = max(2, round(PART_S * fps))
    count = max(1, round(num_frames / each))
    if count == 1 or (num_frames <= LONG_S * fps and fits):
        return ()
    path = PurePosixPath(whole)
    edges = [*(i * each for i in range(count)), num_frames]
    return tuple(
        Part(
            name=path.with_name(f"{path.stem}__part{i:04d}{path.suffix}").as_posix(),
            whole=whole,
            start=edges[i],
            stop=edges[i + 1],
        )
        for i in range(count)
    )


def read_shrunk(source: Source, clip: ClipInfo, shrink: Shrink) -> Episode:
    """`source.read`, its pictures shrunk; at once after decoding where the source can do so."""
    if isinstance(source, Cutting):
        return source.read_shrunk(clip, shrink)
    episode = source.read(clip)
    return replace(episode, frames=shrink(episode.frames), extra_frames={})
