"""Which frames form a pair (o_t, o_t+H): H is a time, and both frames lie in one clip.

Paper: frame pairs (o_t, o_t+H). Engineering: H is given in seconds, because sources differ in speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.store.frame_cache import SkippedClip
from cyclemimic.types import ClipInfo, Int64


@dataclass(frozen=True, kw_only=True)
class PairIndex:
    """All n pairs, clip after clip, ascending in time. `now` and `later` count frames within their clip."""

    clip: Int64  # [n], index into the clips that were given
    now: Int64  # [n], t
    later: Int64  # [n], t + H
    gap_frames: Int64  # [clips], H of each clip in frames
    skipped: tuple[SkippedClip, ...]  # clips too short for a pair

    def __len__(self) -> int:
        return len(self.clip)


def gap_in_frames(gap_s: float, fps: float) -> int:
    """H in frames: `gap_s` seconds at `fps` Hz, rounded, at least 1."""
    return max(1, int(gap_s * fps + 0.5))


def valid_pairs(clips: Sequence[ClipInfo], gap_s: float) -> PairIndex:
    """Every pair of frames `gap_s` seconds apart, none across a clip's edge.

    Raises:
        InputError: `gap_s` is not above 0, a clip's rate is not, or no clip is long enough.
    """
    if not 0 < gap_s < float("inf"):
        raise InputError("gap_s", expected="seconds above 0", got=str(gap_s), remedy="Try 0.5.")
    for clip in clips:
        if not 0 < clip.fps < float("inf"):
            got, remedy = f"{clip.fps} Hz", "Give its fps in clips.jsonl."
            raise InputError(f"clip {clip.name!r}", expected="a frame rate above 0", got=got, remedy=remedy)
    gap = np.array([gap_in_frames(gap_s, c.fps) for c in clips], np.int64)
    lengths = np.array([c.num_frames for c in clips], np.int64)
    counts = np.maximum(lengths - gap, 0)
    skipped = tuple(
        SkippedClip(name=c.name, reason=f"{c.num_frames} frames, but a gap of {gap_s} s needs {int(h) + 1}")
        for c, h, n in zip(clips, gap, counts, strict=True)
        if n == 0
    )
    total = int(counts.sum())
    if total == 0:
        longest = max((c.num_frames / c.fps for c in clips), default=0.0)
        raise InputError(
            "gap_s",
            expected=f"clips longer than {gap_s} s",
            got=f"{len(clips)} clips, the longest {longest:.2f} s",
            remedy="Give a smaller gap, or longer clips.",
        )
    clip_of = np.repeat(np.arange(len(clips), dtype=np.int64), counts)
    first = np.cumsum(counts) - counts
    now = np.arange(total, dtype=np.int64) - first[clip_of]
    return PairIndex(clip=clip_of, now=now, later=now + gap[clip_of], gap_frames=gap, skipped=skipped)
