"""Encoded pictures in memory to frames. Engineering.

Letters in shapes: T frames, H W picture.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cyclemimic.data.parts import MAX_CLIP_BYTES
from cyclemimic.data.video import rgb_of
from cyclemimic.errors import InputError
from cyclemimic.types import UInt8

# What Pillow raises over damaged pictures.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, Image.DecompressionBombError)


def decode_pictures(contents: Sequence[bytes | memoryview], where: object) -> UInt8:
    """Frames [T, H, W, 3] from png or jpg pictures of one size.

    Raises:
        InputError: a picture is damaged, of another size than the first, or all are too large for memory; names
        the step.
    """
    frames: UInt8 | None = None
    for step, content in enumerate(contents):
        place = f"{where}, step {step}"
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                height, width = image.height, image.width
                if frames is None:
                    if height * width * 3 * len(contents) > MAX_CLIP_BYTES:
                        raise _too_large(place, len(contents), height, width)
                    frames = np.empty((len(contents), height, width, 3), np.uint8)
                if (height, width) != frames.shape[1:3]:
                    expected, got = f"pictures of {frames.shape[1:3]} px", f"{(height, width)}"
                    remedy = "One episode has pictures of one size; drop this one."
                    raise InputError(place, expected=expected, got=got, remedy=remedy)
                frames[step] = rgb_of(image)
        except InputError:
            raise
        except _UNREADABLE as error:
            got = str(error) if len(content) else "no bytes"
            remedy = "The picture is damaged; download the file again, or go on without this episode."
            raise InputError(place, expected="a png or jpg picture", got=got, remedy=remedy) from None
    if frames is None:
        raise InputError(where, expected="pictures", got="none", remedy="This episode is empty; drop it.")
    return frames


def _too_large(where: str, count: int, height: int, width: int) -> InputError:
    expected = f"a clip of at most {MAX_CLIP_BYTES >> 30} GiB once decoded"
    remedy = "Scale the pictures down or cut the episode into parts."
    return InputError(where, expected=expected, got=f"{count} frames of {width} x {height} px", remedy=remedy)
