"""The video files of a LeRobot dataset. Engineering.

Letters in shapes: T frames, H W picture.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from cyclemimic.types import UInt8

_SMALL_PX = 128  # smaller pictures keep the colour of every pixel, which not every browser can show


def pixel_format(height: int, width: int) -> str:
    """How pictures of this size [px] are stored."""
    even = height % 2 == width % 2 == 0
    return "yuv420p" if even and min(height, width) >= _SMALL_PX else "yuv444p"


class VideoFile:
    """One mp4 to which episodes are appended; each begins with a whole picture, and every second one is whole.

    H.264 without B-frames by one thread, so that equal frames give equal bytes.
    """

    def __init__(self, path: Path, height: int, width: int, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.count, self.size_bytes = path, 0, 0
        self.rate = Fraction(fps).limit_denominator(60060)
        self.container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        options = {"crf": "10", "preset": "medium", "threads": "1", "g": "2", "bf": "0"}
        self.stream = self.container.add_stream("libx264", rate=self.rate, options=options)
        self.stream.height, self.stream.width, self.stream.pix_fmt = height, width, pixel_format(height, width)
        self.stream.codec_context.thread_count = 1

    def append(self, frames: UInt8) -> float:
        """Write frames [T, H, W, 3]; returns the second at which they begin."""
        start = self.count
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.count, 1 / self.rate
            if self.count == start:
                frame.pict_type = PictureType.I
            self.count += 1
            self._mux(self.stream.encode(frame))
        return float(start / self.rate)

    def close(self) -> None:
        """Write what the encoder still holds, and the index."""
        self._mux(self.stream.encode())
        self.container.close()

    def _mux(self, packets: list[Any]) -> None:
        self.size_bytes += sum(packet.size for packet in packets)
        self.container.mux(packets)
