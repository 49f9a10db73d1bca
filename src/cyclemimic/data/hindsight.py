"""What later frames tell about the one now, without actions: where a clip ends, and where it moves. Engineering.

The hand of a demonstration moves until the end, and ends at what the sentence names. To guess that place, learnt from
video alone, binds words to things long before an action is seen. Where things move now is where the hand is: what is
learnt to guess it from one picture knows some of the state that no video has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Float32, UInt8

END_GRID = 8  # rows and columns of cells
LEAST_CHANGE = 12  # of 255: below, it is compression and noise


def end_maps(cache: FrameCache) -> Float32:
    """Where in the picture each clip ends, [clips, END_GRID ** 2]: shares of the change, row by row, that sum to 1."""
    return np.stack([last_change(cache.clip_frames(i)) for i in range(len(cache))])


def last_change(frames: UInt8) -> Float32:
    """Shares of the change between the last two frames of a clip [T, S, S, 3] in each cell; alike where none moved."""
    return _shares(_change(frames[-2], frames[-1]))


def moving_maps(frames: UInt8) -> Float32:
    """Where in the picture things move at each moment of a clip [T, S, S, 3]: shares [T, END_GRID ** 2].

    A place moves where both the frame before and the frame behind differ from this one: a change alone also shows
    where the hand comes from or goes to. At both ends of the clip there is one change. A moment at which nothing moves
    takes the map of the last one before it at which something did, or else of the next: what rests is where it was.
    These are targets and look ahead by a frame; who guesses them sees the one picture. Three-frame differencing;
    engineering.

    Raises:
        InputError: a clip of one frame.
    """
    if len(frames) < 2:
        raise InputError(
            "moving_maps", expected="clips of two frames or more", got=str(len(frames)), remedy="Leave it out."
        )
    maps = np.full((len(frames), END_GRID**2), END_GRID**-2, np.float32)
    moves = np.zeros(len(frames), np.bool_)
    before = _change(frames[0], frames[1])
    for moment in range(len(frames)):
        behind = _change(frames[moment], frames[moment + 1]) if moment + 1 < len(frames) else before
        both = np.minimum(before, behind)
        maps[moment], moves[moment], before = _shares(both), both.any(), behind
    known = np.flatnonzero(moves)
    if not len(known):
        return maps
    nearest = np.maximum(np.searchsorted(known, np.arange(len(frames)), side="right") - 1, 0)
    out: Float32 = maps[known[nearest]]
    return out


def _change(now: UInt8, later: UInt8) -> NDArray[np.floating[Any]]:
    """How much each place [S, S] of two pictures differs, of 255; 0 where it is compression and noise."""
    change = np.abs(later.astype(np.int16) - now).mean(-1)
    change[change < LEAST_CHANGE] = 0
    return change  # type: ignore[no-any-return]


def _shares(change: NDArray[np.floating[Any]]) -> Float32:
    """Shares [END_GRID ** 2] of a change [S, S] in each cell, alike where there is none."""
    edges = np.arange(END_GRID) * change.shape[0] // END_GRID
    cells = np.add.reduceat(np.add.reduceat(change, edges, 0), edges, 1).ravel()
    total = cells.sum()
    return (cells / total if total else np.full(END_GRID**2, END_GRID**-2)).astype(np.float32)
