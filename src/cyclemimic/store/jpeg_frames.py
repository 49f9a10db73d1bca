"""Frames kept as JPEG, decoded when asked for: a fifth of the room, and a hundred times the work. Engineering.

Letters in shapes: N frames, S side of a picture, B frames that are asked for.
"""

from __future__ import annotations

import io

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.types import Int64, UInt8

QUALITY = 95  # with the colour of every pixel kept: tokenizers look at small changes
MOST_SHARE = 0.5  # of the plain bytes, for a guess of what is needed before anything is encoded


class JpegFrames:
    """Frames [N, S, S, 3] from one file of JPEG pictures: stands where a frame cache has its memory map.

    Args:
        content: the file's bytes, usually a memory map.
        starts: where each picture begins, and where the last one ends [N + 1].
        size_px: S.
        where: names the file in errors.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, content: UInt8, starts: Int64, size_px: int, where: str) -> None:
        self.content, self.starts, self.where = content, starts, where
        self.shape = (len(starts) - 1, size_px, size_px, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int64 | slice | int) -> UInt8:
        """The frames of these rows [B, S, S, 3], or one.

        Raises:
            InputError: a picture is damaged.
        """
        if isinstance(rows, int | np.integer):
            return self._decoded(int(rows))
        wanted = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows, np.int64)
        out = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for i, row in enumerate(wanted.tolist()):
            out[i] = self._decoded(row)
        return out

    def _decoded(self, row: int) -> UInt8:
        from PIL import Image

        if row < 0:
            row += len(self)
        picture = self.content[self.starts[row] : self.starts[row + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(picture), formats=("JPEG",)) as image:
                frame: UInt8 = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _damaged(self.where, row, str(error)) from None
        if frame.shape != self.shape[1:]:
            raise _damaged(self.where, row, f"{frame.shape}")
        return frame


def encode_jpeg(frames: UInt8) -> list[bytes]:
    """Frames [B, S, S, 3] as JPEG files."""
    from PIL import Image

    out = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame)).save(file, "JPEG", quality=QUALITY, subsampling=0)
        out.append(file.getvalue())
    return out


def _damaged(where: str, row: int, got: str) -> InputError:
    remedy = "Delete the cache and build it again."
    return InputError(
        f"{where}, frame {row}", expected="a whole JPEG picture of the cache's size", got=got, remedy=remedy
    )
