"""Any picture to a square of the training size, by averaging areas. Numpy and Pillow. Engineering."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.types import UInt8, check_picture

Fit = Literal["crop", "squash"]


def resampler_name(fit: Fit) -> str:
    """Names what `resize_square` does to pixels; labels depend on it, so caches record it."""
    if fit not in get_args(Fit):
        remedy = did_you_mean(fit, get_args(Fit))
        raise InputError("fit", expected="a way to make pictures square", got=repr(fit), remedy=remedy)
    return f"{fit}, area mean at whole factors, else Pillow (Hamming down, bilinear up), version 1"


def resize_square(frames: UInt8, size_px: int, fit: Fit = "crop") -> UInt8:
    """Frames [T, H, W, 3] to [T, size_px, size_px, 3].

    `crop` keeps the centre square and the picture's proportions; `squash` keeps everything and bends them.
    Where the size goes into the picture a whole number of times, each pixel is the rounded mean of its
    block; else Pillow's antialiased resampling, in whole numbers, so that every machine gives the same
    bytes.
    """
    check_picture(frames, "resize_square", ndim=4)
    if size_px < 1:
        raise InputError("size_px", expected="at least 1", got=str(size_px), remedy="Common sizes: 64, 224.")
    resampler_name(fit)
    if fit == "crop":
        side = min(frames.shape[1:3])
        top, left = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
        frames = frames[:, top : top + side, left : left + side]
    height, width = frames.shape[1:3]
    if height % size_px or width % size_px:
        return _resize_by_pillow(frames, size_px)
    return _mean_of_blocks(frames, height // size_px, width // size_px)


def _mean_of_blocks(frames: UInt8, rows: int, columns: int) -> UInt8:
    count = rows * columns
    if count == 1:
        return np.ascontiguousarray(frames)
    # Adding strided slices is several times faster than a mean over two axes of a reshaped array.
    total: NDArray[Any] = frames[:, ::rows, ::columns].astype(np.uint16 if count <= 256 else np.uint32)
    for i in range(rows):
        for j in range(columns):
            if i or j:
                total += frames[:, i::rows, j::columns]
    total += count // 2
    total //= count
    return total.astype(np.uint8)


def _resize_by_pillow(frames: UInt8, size_px: int) -> UInt8:
    # Here and not above: a table of a body needs numpy alone.
    from PIL import Image

    shrinks = min(frames.shape[1:3]) > size_px
    method = Image.Resampling.HAMMING if shrinks else Image.Resampling.BILINEAR
    out = np.empty((len(frames), size_px, size_px, 3), np.uint8)
    for t, frame in enumerate(frames):
        image = Image.fromarray(np.ascontiguousarray(frame))
        out[t] = np.asarray(image.resize((size_px, size_px), method))
    return out
