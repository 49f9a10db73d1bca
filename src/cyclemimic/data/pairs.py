"""Which frames form a pair (o_t, o_t+H): H is a time, and both frames lie in one clip.

Paper: frame pairs (o_t, o_t+H). Engineering: H is given in seconds, because sources differ in speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.clips import ClipFacts, CutTable, facts_of
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


@dataclass(frozen=True, kw_only=True)
class PairRuns:
    """All n pairs as m runs: pairs that follow one another in a clip. Clip after clip, ascending in time.

    A million clips have hundreds of millions of pairs, so a pair is no more than its number.
    """

    clip: Int64  # [m], index into the clips that were given
    now: Int64  # [m], t of each run's first pair
    start: Int64  # [m + 1], the number of each run's first pair; then n
    gap_frames: Int64  # [clips], H of each clip in frames
    cut_up: NDArray[np.bool_]  # [clips], long enough for a pair, but every one lies across a cut
    without: Int64  # clips that have no pair

    def __len__(self) -> int:
        return int(self.start[-1])

    @property
    def lengths(self) -> Int64:
        """How many pairs each run has [m]."""
        return np.diff(self.start)

    def places(self, pair: Int64) -> tuple[Int64, Int64]:
        """Clip and t of the pairs of these numbers [B]."""
        run = np.searchsorted(self.start, pair, side="right") - 1
        return self.clip[run], self.now[run] + (pair - self.start[run])

    def kept(self, stays: NDArray[np.bool_]) -> PairRuns:
        """Only those pairs for which `stays` [n] is true, numbered anew."""
        clip, now = self.places(np.flatnonzero(stays))
        first = np.flatnonzero(np.r_[True, (np.diff(clip) != 0) | (np.diff(now) != 1)][: len(clip)])
        return replace(self, clip=clip[first], now=now[first], start=np.append(first, len(clip)))


def gaps_in_frames(clips: ClipFacts, gap_s: Gap) -> Int64:
    """H of every clip in frames [clips]."""
    of_body = np.full(len(clips.bodies), np.nan)
    for body in np.unique(clips.body):
        of_body[body] = gap_of(gap_s, clips.bodies[body])
    found: Int64 = np.clip(of_body[clips.body] * clips.fps + 0.5, 1, 2.0**62).astype(np.int64)
    return found


def pair_runs(
    clips: ClipFacts,
    gap_s: Gap,
    name_of: Callable[[int], str],
    *,
    reach: int = 1,
    cuts: Sequence[Int64] | None = None,
) -> PairRuns:
    """Every pair of frames `gap_s` seconds apart, none across a clip's edge or a cut.

    Args:
        clips: where the frames lie.
        gap_s: H [s], of all bodies or of each.
        name_of: a clip's name, for errors.
        reach: how many gaps must fit behind `now`; 2 for triplets, whose last frame is t + 2 H.
        cuts: per clip the frames with which a new shot begins, ascending; None: no cuts.

    Raises:
        InputError: `gap_s` is not above 0, a clip's rate is not, or no clip is long enough.
    """
    for one_s in gap_s.values() if isinstance(gap_s, Mapping) else [gap_s]:
        if not 0 < one_s < float("inf"):
            raise InputError("gap_s", expected="seconds above 0", got=str(one_s), remedy="Try 0.5.")
    bad = np.flatnonzero(~((clips.fps > 0) & (clips.fps < np.inf)))
    if len(bad):
        got, remedy = f"{clips.fps[bad[0]]} Hz", "Give its fps in clips.jsonl."
        where = f"clip {name_of(int(bad[0]))!r}"
        raise InputError(where, expected="a frame rate above 0", got=got, remedy=remedy)
    gap = gaps_in_frames(clips, gap_s)
    clip, first, last = _shots(clips.num_frames, cuts)
    counts = last - first - reach * gap[clip]
    some = counts > 0
    clip, now, counts = clip[some], first[some], counts[some]
    if not len(clip):
        shortest = min((gap_of(gap_s, clips.bodies[body]) for body in np.unique(clips.body)), default=0.0)
        longest = float((clips.num_frames / clips.fps).max(initial=0.0))
        raise InputError(
            "gap_s",
            expected=f"clips longer than {reach * shortest} s" + (" between two cuts" if cuts is not None else ""),
            got=f"{len(clips)} clips, the longest {longest:.2f} s",
            remedy="Give a smaller gap, or longer clips.",
        )
    has = np.zeros(len(clips), np.bool_)
    has[clip] = True
    return PairRuns(
        clip=clip,
        now=now,
        start=np.concatenate([[0], np.cumsum(counts)]),
        gap_frames=gap,
        cut_up=~has & (clips.num_frames > reach * gap),
        without=np.flatnonzero(~has),
    )


def joined(parts: Sequence[PairRuns]) -> PairRuns:
    """The runs of several lists of clips, one after another; what is told by clip is that of the first."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    return replace(
        parts[0],
        clip=np.concatenate([part.clip for part in parts]),
        now=np.concatenate([part.now for part in parts]),
        start=np.concatenate([[0], np.cumsum(lengths)]),
    )


def skipped_clips(
    clips: Sequence[ClipInfo], which: Int64, runs: PairRuns, gap_s: Gap, reach: int
) -> tuple[SkippedClip, ...]:
    """The clips that have no pair, and why; `runs` are those of clips `which` [n]."""
    found = []
    for i in runs.without.tolist():
        clip, needed = clips[int(which[i])], reach * int(runs.gap_frames[i]) + 1
        reason = _too_short(clip, gap_of(gap_s, clip.embodiment), needed, cut_up=bool(runs.cut_up[i]))
        found.append(SkippedClip(name=clip.name, reason=reason))
    return tuple(found)


def valid_pairs(
    clips: Sequence[ClipInfo], gap_s: Gap, *, reach: int = 1, cuts: Sequence[Int64] | None = None
) -> PairIndex:
    """The pairs of `pair_runs`, each told by itself.

    Raises:
        InputError: as `pair_runs`.
    """
    runs = pair_runs(facts_of(clips), gap_s, lambda i: clips[i].name, reach=reach, cuts=cuts)
    clip, now = np.repeat(runs.clip, runs.lengths), np.arange(len(runs)) - np.repeat(runs.start[:-1], runs.lengths)
    now += np.repeat(runs.now, runs.lengths)
    return PairIndex(
        clip=clip,
        now=now,
        later=now + runs.gap_frames[clip],
        gap_frames=runs.gap_frames,
        skipped=skipped_clips(clips, np.arange(len(clips)), runs, gap_s, reach),
    )


def _shots(lengths: Int64, cuts: Sequence[Int64] | None) -> tuple[Int64, Int64, Int64]:
    """Clip, first frame, and the frame behind the last, of every shot."""
    clip = np.arange(len(lengths), dtype=np.int64)
    if cuts is None:
        return clip, np.zeros_like(clip), lengths
    shots = 1 + (cuts.counts if isinstance(cuts, CutTable) else np.array([len(cut) for cut in cuts], np.int64))
    opening = np.cumsum(shots) - shots  # where each clip's first shot is
    first = np.zeros(int(shots.sum()), np.int64)
    later = np.ones(len(first), np.bool_)
    later[opening] = False
    if isinstance(cuts, CutTable):
        first[later] = cuts.frames
    else:
        first[later] = np.concatenate([np.empty(0, np.int64), *(cut for cut in cuts if len(cut))])
    last = np.append(first[1:], 0)
    last[opening + shots - 1] = lengths
    return np.repeat(clip, shots), first, last


def _too_short(clip: ClipInfo, gap_s: float, needed: int, *, cut_up: bool) -> str:
    if cut_up:
        return f"every pair of frames {gap_s} s apart lies across a cut"
    return f"{clip.num_frames} frames, but a gap of {gap_s} s needs {needed}"
