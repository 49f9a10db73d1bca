"""Which frames form a pair (o_t, o_t+H): H is a time, and both frames lie in one clip.

Paper: frame pairs (o_t, o_t+H). Engineering: H is given in seconds, because sources differ in speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.frame_cache import SkippedClip
from cyclemimic.types import ClipInfo, Gap, Int64


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


def gap_of(gap_s: Gap, body: str) -> float:
    """H of a body [s].

    Raises:
        InputError: there is a gap for each of some bodies, and this is none of them.
    """
    if not isinstance(gap_s, Mapping):
        return gap_s
    if body not in gap_s:
        remedy = f"Give it one, or one for all bodies. {did_you_mean(body, tuple(gap_s))}"
        raise InputError("gap_s", expected=f"a gap of body {body!r}", got="none", remedy=remedy)
    return gap_s[body]


def clip_gap(gap_s: Gap, clip: ClipInfo) -> int:
    """H of a clip in frames."""
    return gap_in_frames(gap_of(gap_s, clip.embodiment), clip.fps)


def valid_pairs(
    clips: Sequence[ClipInfo], gap_s: Gap, *, reach: int = 1, cuts: Sequence[Int64] | None = None
) -> PairIndex:
    """Every pair of frames `gap_s` seconds apart, none across a clip's edge or a cut.

    Args:
        clips: where the frames lie.
        gap_s: H [s], of all bodies or of each.
        reach: how many gaps must fit behind `now`; 2 for triplets, whose last frame is t + 2 H.
        cuts: per clip the frames with which a new shot begins, ascending; None: no cuts.

    Raises:
        InputError: `gap_s` is not above 0, a clip's rate is not, or no clip is long enough.
    """
    for one_s in gap_s.values() if isinstance(gap_s, Mapping) else [gap_s]:
        if not 0 < one_s < float("inf"):
            raise InputError("gap_s", expected="seconds above 0", got=str(one_s), remedy="Try 0.5.")
    for clip in clips:
        if not 0 < clip.fps < float("inf"):
            got, remedy = f"{clip.fps} Hz", "Give its fps in clips.jsonl."
            raise InputError(f"clip {clip.name!r}", expected="a frame rate above 0", got=got, remedy=remedy)
    gap = np.array([clip_gap(gap_s, c) for c in clips], np.int64)
    lengths = np.array([c.num_frames for c in clips], np.int64)
    counts = np.maximum(lengths - reach * gap, 0)
    clip_of = np.repeat(np.arange(len(clips), dtype=np.int64), counts)
    now = np.arange(len(clip_of), dtype=np.int64) - (np.cumsum(counts) - counts)[clip_of]
    if cuts is not None:
        shot, first = _shots(lengths, cuts), np.cumsum(lengths) - lengths
        row = first[clip_of] + now
        whole = shot[row] == shot[row + reach * gap[clip_of]]
        clip_of, now = clip_of[whole], now[whole]
    have = np.bincount(clip_of, minlength=len(clips))
    skipped = tuple(
        SkippedClip(name=c.name, reason=_too_short(c, gap_of(gap_s, c.embodiment), reach * int(h) + 1, cut_up=n > 0))
        for c, h, n, left in zip(clips, gap, counts, have, strict=True)
        if left == 0
    )
    if len(now) == 0:
        shortest = min((gap_of(gap_s, c.embodiment) for c in clips), default=0.0)
        longest = max((c.num_frames / c.fps for c in clips), default=0.0)
        raise InputError(
            "gap_s",
            expected=f"clips longer than {reach * shortest} s" + (" between two cuts" if cuts is not None else ""),
            got=f"{len(clips)} clips, the longest {longest:.2f} s",
            remedy="Give a smaller gap, or longer clips.",
        )
    return PairIndex(clip=clip_of, now=now, later=now + gap[clip_of], gap_frames=gap, skipped=skipped)


def _shots(lengths: Int64, cuts: Sequence[Int64]) -> Int64:
    """The number of its shot for every frame of every clip, clip after clip."""
    begins = np.zeros(int(lengths.sum()), np.int64)
    for first, cut in zip(np.cumsum(lengths) - lengths, cuts, strict=True):
        begins[first + cut] = 1
    return np.cumsum(begins)


def _too_short(clip: ClipInfo, gap_s: float, needed: int, *, cut_up: bool) -> str:
    if cut_up:
        return f"every pair of frames {gap_s} s apart lies across a cut"
    return f"{clip.num_frames} frames, but a gap of {gap_s} s needs {needed}"
