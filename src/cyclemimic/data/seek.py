"""Any frame of a video file without those before its key frame, with the pixels that `read_video` gives. Engineering.

Letters in shapes: n frames of a file, T frames at a constant rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from cyclemimic.data.parts import Part, parts_of
from cyclemimic.data.screen import Screen
from cyclemimic.data.stamp import FileStamp, require_unchanged
from cyclemimic.data.video import clock, open_container, refuse_absent, shown_frames, unreadable, video_stream
from cyclemimic.errors import InputError
from cyclemimic.types import Int64, UInt8

THE_CACHE = "Read it through the frame cache instead."


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
    stamp: FileStamp | None = None  # of the file when it was indexed; None: nobody kept it

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
        raise InputError(path, expected="a video file", got="a folder of pictures", remedy=THE_CACHE)
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
        raise InputError(path, expected="a time for every frame", got=got, remedy=THE_CACHE)
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


class OpenVideo:
    """One open decoder; goes to a key frame and onwards, and reads on where it is when that is nearer.

    Raises:
        InputError: the file is gone, cannot be read, or is not what it was when it was indexed.
    """

    def __init__(self, index: VideoIndex) -> None:
        self.index = index
        if index.stamp is not None:
            require_unchanged(index.path, index.stamp)
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
