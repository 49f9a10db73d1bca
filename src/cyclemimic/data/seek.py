"""Any frame of a video file without those before its key frame, with the pixels that `read_video` gives. Engineering.

Letters in shapes: n frames of a file, T frames at a constant rate, S side of a picture, N frames of many clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import av
import numpy as np

from cyclemimic.data.cache import COLOURS, source_hash
from cyclemimic.data.parts import LONG_S, Cutting, Part, parts_of
from cyclemimic.data.screen import Screen
from cyclemimic.data.video import clock, open_container, refuse_absent, shown_frames, unreadable, video_stream
from cyclemimic.embodiment.resize import Fit, resampler_name, resize_square
from cyclemimic.errors import InputError
from cyclemimic.store.atomic import sha256_json
from cyclemimic.store.clips import LazyRows, chosen
from cyclemimic.store.frame_cache import FrameCache, SkippedClip
from cyclemimic.store.index import EpisodeIndex, EpisodeRow, IndexedClips, build_index
from cyclemimic.types import ClipInfo, Int64, Source, UInt8

OPEN_FILES = 64  # decoders kept open
_THE_CACHE = "Read it through the frame cache instead."


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


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """What must be known of a file to read any frame of it."""

    path: Path
    pts: Int64  # [n], when each frame is shown, in the stream's own units, ascending
    keys: Int64  # which frames need no other, ascending
    shown: Int64  # [T], which frame is on display at every multiple of 1 / fps
    fps: float
    stream: int
    height_px: int
    width_px: int

    @property
    def key_spacing(self) -> float:
        """How many frames lie from one key frame to the next, at the median."""
        return float(np.median(np.diff(np.append(self.keys, len(self.pts)))))


def index_video(path: Path | str, *, fps: float | None = None) -> VideoIndex:
    """Index a file from its packets alone; nothing is decoded.

    Args:
        path: the file.
        fps: frames per second [Hz] instead of what the file says.

    Raises:
        InputError: a folder of pictures, no readable video, or one whose packets have no times.
    """
    path = Path(path)
    refuse_absent(path)
    if path.is_dir():
        raise InputError(path, expected="a video file", got="a folder of pictures", remedy=_THE_CACHE)
    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
            base, average, number = stream.time_base, stream.average_rate, stream.index
            height, width = stream.height, stream.width
            found = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
    except (av.FFmpegError, UnicodeError) as error:
        raise unreadable(path, error) from None
    pts = np.array([-1 if t is None else t for t, _ in found], np.int64)
    order = np.argsort(pts, kind="stable")
    pts, is_key = pts[order], np.array([key for _, key in found], bool)[order]
    known = len(pts) >= 2 and base is not None and not any(t is None for t, _ in found)
    if not known or (np.diff(pts) <= 0).any() or not is_key.any():
        got = f"{len(pts)} packets without a clear order"
        raise InputError(path, expected="a time for every frame", got=got, remedy=_THE_CACHE)
    assert base is not None
    times_s, found_hz = clock([float(t * base) for t in pts], float(average) if average else None)
    if fps is not None:
        times_s, found_hz = times_s * (found_hz / fps), fps
    shown = shown_frames(times_s, found_hz)
    return VideoIndex(
        path=path,
        pts=pts,
        keys=np.flatnonzero(is_key),
        shown=np.arange(len(pts)) if shown is None else shown,
        fps=found_hz,
        stream=number,
        height_px=height,
        width_px=width,
    )


def parts_of_video(whole: str, index: VideoIndex) -> tuple[Part, ...]:
    """The parts of an indexed file that is the clip `whole`; none where it may stay one."""
    return parts_of(whole, len(index.shown), index.fps, index.height_px, index.width_px)


def episode_row(source: Filed, name: str) -> EpisodeRow:
    """What an index holds of one clip; a clip that cannot be sought in has no frames, and `fault` says why."""
    info = source.describe(name)
    bare = EpisodeRow(
        uri=name, embodiment=info.embodiment, fps=info.fps, instruction=info.instruction, licence=info.licence
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
    return VideoIndex(
        path=source.file_of(row.uri),
        pts=row.first_pts + row.step_pts * np.arange(row.frames) if even else np.array(row.pts, np.int64),
        keys=np.array(row.key_frames, np.int64),
        shown=np.arange(row.frames) if even else np.array(row.shown, np.int64),
        fps=row.fps,
        stream=row.stream,
        height_px=row.height_px,
        width_px=row.width_px,
    )


def index_source(
    source: Source, path: Path, *, threads: int = 1, progress: Callable[[int, int], None] | None = None
) -> EpisodeIndex:
    """The index of a source, made once and kept at `path`; goes on where a killed build stopped.

    Raises:
        InputError: a source whose clips are no files.
    """
    if not isinstance(source, Filed):
        raise InputError(source.name, expected="a source that names its clips' files", got="none", remedy=_THE_CACHE)
    files: Filed = source
    return build_index(
        path,
        files.names(),
        lambda name: episode_row(files, name),
        lambda name: _bytes_of(files.file_of(name)),
        threads=threads,
        progress=progress,
    )


def _bytes_of(file: Path) -> int:
    """-1 where it cannot be seen: the index will say why."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


class OpenVideo:
    """One open decoder; goes to a key frame and onwards, and reads on where it is when that is nearer."""

    def __init__(self, index: VideoIndex) -> None:
        self.index = index
        try:
            self._container = open_container(index.path)
        except (av.FFmpegError, UnicodeError) as error:  # it vanished since it was indexed
            raise unreadable(index.path, error) from None
        self._stream = video_stream(self._container, index.path)
        self.screen = Screen(index.path)
        self._decoded: Iterator[av.VideoFrame] = self._container.decode(self._stream)
        self._at = -1  # the frame that was decoded last
        self._frame: av.VideoFrame | None = None
        self._picture: tuple[int, UInt8] | None = None  # the last one, which may be asked for again

    def picture(self, t: int) -> UInt8:
        """The frame [H, W, 3] that is on display at t / fps [s], upright."""
        number = int(self.index.shown[t])
        if self._picture is None or self._picture[0] != number:
            self._go_to(number)
            assert self._frame is not None
            self._picture = (number, self.screen.show(self._frame))
        return self._picture[1]

    def close(self) -> None:
        """Free the decoder."""
        self._container.close()

    def _go_to(self, number: int) -> None:
        keys = self.index.keys
        key = int(np.searchsorted(keys, number, side="right")) - 1
        if not (self._at < number and (key < 0 or keys[key] <= self._at + 1)):
            # A seek may land behind its key frame where frames are stored in another order than shown.
            for earlier in (key, key - 1, key - 2, 0):
                self._seek(int(keys[earlier]) if earlier > 0 else 0)
                if self._next() and self._at <= number:
                    break
        while self._at < number and self._next():
            pass
        if self._at != number:
            remedy = "The file is damaged, or changed since it was indexed."
            raise InputError(self.index.path, expected=f"frame {number}", got="none", remedy=remedy)

    def _seek(self, number: int) -> None:
        self._container.seek(int(self.index.pts[number]), stream=self._stream)
        self._decoded, self._at, self._frame = self._container.decode(self._stream), -1, None

    def _next(self) -> bool:
        try:
            for frame in self._decoded:
                if frame.pts is not None:
                    next_at, pts = self._at + 1, self.index.pts
                    # Mostly it is the next one, which is cheaper seen than searched for.
                    follows = 0 < next_at < len(pts) and pts[next_at] == frame.pts
                    self._at = next_at if follows else int(np.searchsorted(pts, frame.pts))
                    self._frame = frame
                    return True
        except av.FFmpegError as error:
            raise unreadable(self.index.path, error) from None
        return False


class IndexedVideos(LazyRows[VideoIndex]):
    """What reading the files of some rows of an index needs; looked up when asked for."""

    def __init__(self, source: Filed, index: EpisodeIndex, rows: Int64) -> None:
        super().__init__(rows)
        self._source, self._index = source, index
        self.lengths: Int64 = index.frames[rows]

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
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
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
        raise InputError(source.name, expected="a source that names its clips' files", got="none", remedy=_THE_CACHE)
    if index is not None and not _has_long(source, index):
        good = index.frames >= min_frames
        clips: Sequence[ClipInfo] = IndexedClips(index, np.flatnonzero(good))
        indices: Sequence[VideoIndex] = IndexedVideos(source, index, np.flatnonzero(good))
        skipped = tuple(_skipped(index.row(i), min_frames) for i in np.flatnonzero(~good).tolist())
    else:
        clips, indices, skipped = _one_by_one(source, index, min_frames)
    if not len(clips):
        got = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3]) or "none"
        raise InputError(source.name, expected="a video file that can be sought in", got=got, remedy=_THE_CACHE)
    frames, content = VideoFrames(indices, size_px, fit), source_hash(source)
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
