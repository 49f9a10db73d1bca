"""Pairs in which nothing moves: they teach one code again and again, so only a share of them is kept. Engineering."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.hindsight import LEAST_CHANGE
from cyclemimic.data.pairs import valid_pairs
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Float32, Gap, Int64, UInt8

LEAST_MOVING = 0.002  # share of the pixels: 8 of 64 x 64
_CHUNK_PAIRS = 256


def moving_share(now: UInt8, later: UInt8) -> Float32:
    """Which share of the pixels changes from now to later, both [n, S, S, 3]: [n] in [0, 1]."""
    moves = np.maximum(now, later) - np.minimum(now, later) >= LEAST_CHANGE
    any_colour = moves[..., 0] | moves[..., 1] | moves[..., 2]  # several times faster than over an axis of 3
    share: Float32 = any_colour.mean((1, 2), dtype=np.float32)
    return share


def moving_shares(cache: FrameCache, gap_s: Gap) -> Float32:
    """`moving_share` of every pair of a frame cache [pairs], clip after clip, ascending in time."""
    index = valid_pairs(cache.clips, gap_s)
    now, frames = cache.offsets[index.clip] + index.now, cache.frames
    later = cache.offsets[index.clip] + index.later
    chunks = [slice(i, i + _CHUNK_PAIRS) for i in range(0, len(index), _CHUNK_PAIRS)]
    return np.concatenate([moving_share(frames[now[s]], frames[later[s]]) for s in chunks])


def thin_still(shares: Float32, body: Int64, still_share: float) -> NDArray[np.bool_]:
    """Which of n pairs stay, so that of each body's at most `still_share` show nothing that moves.

    Those that stay are spread evenly over the body's still pairs, so no draw is needed. A body that never moves has no
    pair left.
    """
    stays = shares >= LEAST_MOVING
    for one in np.unique(body):
        still = np.flatnonzero(~stays & (body == one))
        moving = int((stays & (body == one)).sum())
        room = min(len(still), int(still_share / (1 - still_share) * moving))
        stays[still[np.arange(room) * len(still) // max(1, room)]] = True
    return stays
