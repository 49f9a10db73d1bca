"""Several frame caches as one, for whoever looks at the clips of all of them: nothing is copied. Engineering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Int64, UInt8


class JoinedFrames:
    """Frames [N, S, S, 3] of several caches of one size, one behind the other; read when asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, caches: Sequence[FrameCache]) -> None:
        self._frames = [cache.frames for cache in caches]
        self._first = np.cumsum([0, *(len(frames) for frames in self._frames)])
        self.shape = (int(self._first[-1]), *self._frames[0].shape[1:])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, rows: Int64 | slice) -> UInt8:
        """The frames of these rows [B]."""
        wanted = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows, np.int64)
        out = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        cache = np.searchsorted(self._first, wanted, side="right") - 1
        for which in np.unique(cache).tolist():
            here = np.flatnonzero(cache == which)
            out[here] = self._frames[which][wanted[here] - self._first[which]]
        return out


def joined(caches: Sequence[FrameCache], names: Sequence[str], source_hash: str) -> FrameCache:
    """Caches of one size as one, whose clips are called NAME/CLIP; one alone stays as it is.

    Args:
        caches: at least one; their rows follow one another in this order.
        names: of the sources.
        source_hash: of all of them.
    """
    if len(caches) == 1:
        return caches[0]
    frames = JoinedFrames(caches)
    first = np.cumsum([0, *(len(cache.frames) for cache in caches)])
    return replace(
        caches[0],
        clips=tuple(
            replace(clip, name=f"{name}/{clip.name}")
            for name, cache in zip(names, caches, strict=True)
            for clip in cache.clips
        ),
        offsets=np.concatenate([start + cache.offsets for start, cache in zip(first, caches, strict=False)]),
        frames=cast(UInt8, frames),
        source_hash=source_hash,
        sha256=tuple(known for cache in caches for known in cache.sha256),
        skipped=tuple(clip for cache in caches for clip in cache.skipped),
    )
