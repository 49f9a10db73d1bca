"""Frames of many video files that are decoded when asked for, where others keep them on disk. Engineering.

Letters in shapes: S side of a picture, N frames of many clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from cyclemimic.data.cache import COLOURS, source_hash
from cyclemimic.data.filed import Filed, IndexedVideos, content_of, episode_row, video_of
from cyclemimic.data.parts import LONG_S, Cutting
from cyclemimic.data.seek import THE_CACHE, OpenVideo, VideoIndex, parts_of_video
from cyclemimic.embodiment.resize import Fit, resampler_name, resize_square
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.clips import LazyRows, chosen
from cyclemimic.store.frame_cache import FrameCache, SkippedClip
from cyclemimic.store.index import EpisodeIndex, EpisodeRow, IndexedClips
from cyclemimic.types import ClipInfo, Int64, Source, UInt8

OPEN_FILES = 64  # decoders kept open


class _Hashes(LazyRows[str]):
    """A hash for each clip, of the source's content and the clip's name."""

    def __init__(self, content: str, clips: Sequence[ClipInfo], rows: Int64) -> None:
        super().__init__(rows)
        self._content, self._clips = content, clips

    def __iter__(self) -> Iterator[str]:
        return (sha256_json([self._content, c.name]) for c in chosen(self._clips, self._rows))

    def chosen(self, entries: Int64) -> _Hashes:
        return _Hashes(self._content, self._clips, self._rows[entries])

    def _made(self, row: int) -> str:
        return sha256_json([self._content, self._clips[row].name])


class VideoFrames:
    """Frames [N, S, S, 3] of many clips, decoded when asked for: stands where a frame cache has its memory map."""

    dtype = np.dtype(np.uint8)

    def __init__(self, indices: Sequence[VideoIndex], size_px: int, fit: Fit = "crop") -> None:
        self.indices, self.size_px, self.fit = indices, size_px, fit
        if isinstance(indices, IndexedVideos):
            lengths = indices.lengths
        else:
            lengths = np.array([len(i.shown) for i in indices], np.int64)
        self.offsets: Int64 = np.cumsum(lengths) - lengths
        self.shape = (int(lengths.sum()), size_px, size_px, 3)
        self._idle: list[tuple[int, OpenVideo]] = []  # those used last come last; several of one clip, maybe

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int64 | slice) -> UInt8:
        """The frames of these rows [B], clip by clip and ascending, whatever their order."""
        wanted = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows, np.int64)
        out = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        unique, inverse = np.unique(wanted, return_inverse=True)
        pictures = self._read(unique)
        out[:] = pictures[inverse]
        return out

    def key_places(self) -> Int64:
        """Where the key frames of all clips are among all frames, ascending, one place left free behind each clip.

        A key frame that is never on display is at that free place.
        """
        if isinstance(self.indices, IndexedVideos):
            return self.indices.key_places(self.offsets)
        free = self.offsets + np.arange(len(self.offsets))
        return np.concatenate(
            [first + np.searchsorted(v.shown, v.keys) for first, v in zip(free, self.indices, strict=True)]
        )

    def borrow(self, clip: int) -> OpenVideo:
        """An open decoder of a clip that nobody else uses."""
        for i in reversed(range(len(self._idle))):
            if self._idle[i][0] == clip:
                return self._idle.pop(i)[1]
        return OpenVideo(self.indices[clip])

    def give_back(self, clip: int, video: OpenVideo) -> None:
        """Let others use it; those idle for longest are closed."""
        self._idle.append((clip, video))
        if len(self._idle) > OPEN_FILES:
            self._idle.pop(0)[1].close()

    def square(self, picture: UInt8) -> UInt8:
        """A picture [H, W, 3] as a frame [S, S, 3]."""
        frame: UInt8 = resize_square(picture[None], self.size_px, self.fit)[0]
        return frame

    def _read(self, rows: Int64) -> UInt8:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        clips = np.searchsorted(self.offsets, rows, side="right") - 1
        for clip in np.unique(clips).tolist():
            video = self.borrow(clip)
            for i in np.flatnonzero(clips == clip).tolist():
                out[i] = self.square(video.picture(int(rows[i] - self.offsets[clip])))
            self.give_back(clip, video)
        return out


def open_videos(
    source: Source, size_px: int, *, fit: Fit = "crop", min_frames: int = 2, index: EpisodeIndex | None = None
) -> FrameCache:
    """A source as a frame cache whose frames are decoded when asked for; nothing is kept on disk.

    Its clips, sizes and pixels are those that `build_cache` writes. With the source's `index` no file is looked at.

    Raises:
        InputError: a source whose clips are no files, or none that is usable.
    """
    if not isinstance(source, Filed):
        raise InputError(source.name, expected="a source that names its clips' files", got="none", remedy=THE_CACHE)
    if index is not None and not _has_long(source, index):
        good = index.frames >= min_frames
        clips: Sequence[ClipInfo] = IndexedClips(index, np.flatnonzero(good))
        indices: Sequence[VideoIndex] = IndexedVideos(source, index, np.flatnonzero(good))
        skipped = tuple(_skipped(index.row(i), min_frames) for i in np.flatnonzero(~good).tolist())
    else:
        clips, indices, skipped = _one_by_one(source, index, min_frames)
    if not len(clips):
        got = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3]) or "none"
        raise InputError(source.name, expected="a video file that can be sought in", got=got, remedy=THE_CACHE)
    frames, content = VideoFrames(indices, size_px, fit), (index and content_of(index)) or source_hash(source)
    return FrameCache(
        clips=clips,
        offsets=frames.offsets,
        frames=cast(UInt8, frames),
        size_px=size_px,
        source_hash=content,
        resampler=f"{resampler_name(fit)}; at least {min_frames} frames; {COLOURS}; decoded when asked for",
        sha256=_Hashes(content, clips, np.arange(len(clips))),
        skipped=skipped,
    )


def _has_long(source: Filed, index: EpisodeIndex) -> bool:
    """Whether a clip may have to be listed in parts; where none has, a million rows stay arrays."""
    if not (isinstance(source, Cutting) and source.cuts_long):
        return False
    return bool((index.frames > LONG_S * index.fps).any())


def _one_by_one(
    source: Filed, index: EpisodeIndex | None, min_frames: int
) -> tuple[tuple[ClipInfo, ...], tuple[VideoIndex, ...], tuple[SkippedClip, ...]]:
    """Every clip looked at, long ones in parts."""
    cuts_long = isinstance(source, Cutting) and source.cuts_long
    infos: list[ClipInfo] = []
    indices: list[VideoIndex] = []
    skipped: list[SkippedClip] = []
    for row in (episode_row(source, name) for name in source.names()) if index is None else index.rows():
        if row.frames < min_frames:
            skipped.append(_skipped(row, min_frames))
            continue
        whole, video = _clip_of(row), video_of(source, row)
        parts = parts_of_video(row.uri, video) if cuts_long else ()
        infos += [replace(whole, name=p.name, num_frames=p.stop - p.start) for p in parts] or [whole]
        indices += [replace(video, shown=video.shown[p.start : p.stop]) for p in parts] or [video]
    return tuple(infos), tuple(indices), tuple(skipped)


def _clip_of(row: EpisodeRow) -> ClipInfo:
    return ClipInfo(
        name=row.uri,
        embodiment=row.embodiment,
        fps=row.fps,
        num_frames=row.frames,
        instruction=row.instruction,
        licence=row.licence,
    )


def _skipped(row: EpisodeRow, min_frames: int) -> SkippedClip:
    return SkippedClip(name=row.uri, reason=row.fault or f"{row.frames} frames, fewer than {min_frames}")
