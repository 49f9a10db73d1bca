"""What a clip's end tells about its beginning, without actions: where things moved last. Engineering.

The hand of a demonstration moves until the end, and ends at what the sentence names. To guess that place, learnt from
video alone, binds words to things long before an action is seen.
"""

from __future__ import annotations

import numpy as np

from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Float32, UInt8

END_GRID = 8  # rows and columns of cells
LEAST_CHANGE = 12  # of 255: below, it is compression and noise


def end_maps(cache: FrameCache) -> Float32:
    """Where in the picture each clip ends, [clips, END_GRID ** 2]: shares of the change, row by row, that sum to 1."""
    return np.stack([last_change(cache.clip_frames(i)) for i in range(len(cache))])


def last_change(frames: UInt8) -> Float32:
    """Shares of the change between the last two frames of a clip [T, S, S, 3] in each cell; alike where none moved."""
    change = np.abs(frames[-1].astype(np.int16) - frames[-2]).mean(-1)
    change[change < LEAST_CHANGE] = 0
    edges = np.arange(END_GRID) * change.shape[0] // END_GRID
    cells = np.add.reduceat(np.add.reduceat(change, edges, 0), edges, 1).ravel()
    total = cells.sum()
    return (cells / total if total else np.full(END_GRID**2, END_GRID**-2)).astype(np.float32)
