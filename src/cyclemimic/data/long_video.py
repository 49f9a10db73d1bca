"""Reads the parts of a long video file, in order decoded once and never held as a whole. Engineering.

Letters in shapes: n pictures of a chunk, T frames of a part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cyclemimic.data.parts import LONG_S, MAX_CLIP_BYTES, Part, Shrink
from cyclemimic.data.seek import OpenVideo, index_video
from cyclemimic.data.video import refuse_changed, stamp_of
from cyclemimic.errors import InputError
from cyclemimic.types import ClipInfo, UInt8

CHUNK_BYTES, CHUNK_FRAMES = 64 << 20, 64  # decoded at a time


def is_long(clip: ClipInfo, size_px: tuple[int, int]) -> bool:
    """Whether a clip of pictures of `size_px` (height, width) is cut into parts, as far as its header tells."""
    too_large = clip.num_frames * size_px[0] * size_px[1] * 3 > MAX_CLIP_BYTES
    return clip.num_frames > LONG_S * clip.fps or too_large


class LongVideo:
    """One file; the decoder stays open, so that a part read behind the one before it goes on there.

    Args:
        path: the file.
        declared: how many frames its header promises.
        fps: frames per second [Hz] instead of what the file says.

    Raises:
        InputError: it cannot be sought in.
    """

    def __init__(self, path: Path, declared: int, *, fps: float | None = None) -> None:
        self.path, self.declared = path, declared
        self._stamp = stamp_of(path)
        self.index = index_video(path, fps=fps)
        self._video: OpenVideo | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens a decoder of its own."""
        return {**self.__dict__, "_video": None}

    def read(self, part: Part, shrink: Shrink) -> tuple[UInt8, tuple[str, ...]]:
        """A part's frames [T, H, W, 3], shrunk chunk by chunk; and what was changed, in words.

        Raises:
            InputError: a frame cannot be decoded, or the file changed since it was looked at.
        """
        refuse_changed(self.path, self._stamp)
        if self._video is None:
            self._video = OpenVideo(self.index)
        found: list[UInt8] = []
        try:
            at = part.start
            while at < part.stop:
                first = self._video.picture(at)
                count = min(CHUNK_FRAMES, max(1, CHUNK_BYTES // first.nbytes), part.stop - at)
                chunk = [first, *(self._video.picture(t) for t in range(at + 1, at + count))]
                self._refuse_sizes(chunk)
                found.append(shrink(np.stack(chunk)))
                if sum(piece.nbytes for piece in found) > MAX_CLIP_BYTES:
                    raise self._too_large(first)
                at += count
            if len({piece.shape[1:] for piece in found}) > 1:
                raise self._other_size()
        except InputError:
            self._video.close()
            self._video = None  # where a decoder stands that failed, nobody knows
            raise
        refuse_changed(self.path, self._stamp)
        remarks = self._video.screen.remarks
        if len(self.index.pts) < 0.9 * self.declared:
            got = f"{len(self.index.pts)} of {self.declared} frames are there"
            remarks = (*remarks, f"the file is cut short: {got}")
        if part.stop == len(self.index.shown):
            self._video.close()
            self._video = None
        return np.concatenate(found), remarks

    def _refuse_sizes(self, chunk: list[UInt8]) -> None:
        if len({picture.shape for picture in chunk}) > 1:
            raise self._other_size()

    def _other_size(self) -> InputError:
        return InputError(self.path, expected="one picture size", got="several", remedy="Encode it again at one size.")

    def _too_large(self, picture: UInt8) -> InputError:
        return InputError(
            self.path,
            expected=f"a part of at most {MAX_CLIP_BYTES >> 30} GiB once decoded",
            got=f"a minute of {picture.shape[1]} x {picture.shape[0]} px",
            remedy="Read it through the frame cache, or scale it down: `ffmpeg -i IN -vf scale=-2:256 OUT`.",
        )
