"""Which gap H suits each body's video: the time in which what moves goes equally far everywhere. Engineering.

Sources differ in speed: half a second is a whole reach in one and nothing in another. Motion is measured in pixels
alone, as optical flow over pairs that lie close together, where flow is still sure; H is the time at that speed.

Letters in shapes: T frames of a clip, S side of a picture, n moments of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cyclemimic.data.flow import backward_flow, one_thread_each
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError
from cyclemimic.store.clips import facts_of
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import ClipInfo, Float64, Int64, UInt8

MOTION = 0.15  # of the picture's side: how far what moves goes from now to later
LOOK = 0.02  # of the side: the way over which speed is measured; farther, flow loses thin things
STILL = 0.003  # of the side: less is no motion
SIZE_PX = 64  # what motion is measured at, so that the size of the video does not count
CLIPS, MOMENTS = 24, 8  # of a body, of a clip
GAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # frames


@dataclass(frozen=True, kw_only=True)
class GapProposal:
    """H of one body, in seconds and in frames of its clips; None where nothing moves far enough to tell."""

    embodiment: str
    gap_s: float | None
    gap_frames: float | None
    moments: int  # that were looked at
    still: int  # of these, in which nothing moves

    def text(self) -> str:
        """In words, for a terminal."""
        if self.gap_s is None:
            return f"no gap proposed: too little moves ({self.still} of {self.moments} moments are still)"
        return f"proposed gap {self.gap_s:.2f} s ({self.gap_frames:.1f} frames)"


def motion_between(now: UInt8, later: UInt8) -> float:
    """How far what moves goes from now to later, both [S, S, 3], as a share of the side; 0 where nothing moves.

    The mean over cells of their way, weighted by the way itself: ground at rest does not count, however much it is.
    """
    way = np.linalg.norm(backward_flow(now, later).astype(np.float64), axis=0) / 2
    total = float(way.sum())
    return float((way * way).sum()) / total if total > 0 else 0.0


def frames_to_move(frames: UInt8, moments: int = MOMENTS) -> Float64:
    """After how many frames what moves has gone `LOOK`, at n moments of a clip [T, S, S, 3], spread evenly: [n].

    Not a whole number. Infinite where it never goes so far; NaN where nothing moves at all.
    """
    if len(frames) < 2:
        return np.empty(0)
    frames = frames if frames.shape[1:3] == (SIZE_PX, SIZE_PX) else _few_square(frames, moments)
    reach = _reach(len(frames))
    now = _moments(len(frames), moments)
    ways = np.zeros((len(now), 1))  # [n, gaps], of no gap first
    gaps = [0]
    with one_thread_each():
        for gap in (g for g in GAPS if g <= reach):
            column = [motion_between(frames[t], frames[t + gap]) for t in now]
            ways, gaps = np.column_stack([ways, column]), [*gaps, gap]
            if np.median(column) > 2 * LOOK:
                break  # most moments have long moved far enough
    return np.array([_crossing(np.array(gaps, np.float64), way) for way in ways])


def propose_gap(
    embodiment: str, found: Iterable[Float64], rates_hz: Iterable[float], motion: float = MOTION
) -> GapProposal:
    """H of one body from `frames_to_move` of its clips and their rates: at the median moment it goes `motion`."""
    if not 0 < motion < 1:
        remedy = f"The usual way is {MOTION} of the picture's side."
        raise InputError("motion", expected="a share of the side in (0, 1)", got=str(motion), remedy=remedy)
    pairs = list(zip(found, rates_hz, strict=True))
    frames = np.concatenate([f for f, _ in pairs]) if pairs else np.empty(0)
    times_s = np.concatenate([f / rate for f, rate in pairs]) if pairs else np.empty(0)
    moves = ~np.isnan(times_s)
    # The higher of two middle values: a mean with an infinite one would say nothing.
    middle = int(moves.sum()) // 2
    time_s = float(np.sort(times_s[moves])[middle]) if moves.any() else np.inf
    known = bool(np.isfinite(time_s))
    return GapProposal(
        embodiment=embodiment,
        gap_s=round(time_s * motion / LOOK, 4) if known else None,
        gap_frames=float(np.sort(frames[moves])[middle]) * motion / LOOK if known else None,
        moments=len(frames),
        still=int((~moves).sum()),
    )


def sampled(clips: Sequence[ClipInfo]) -> dict[str, list[int]]:
    """By body, which of the clips are looked at: at most `CLIPS`, spread evenly."""
    out: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        out.setdefault(clip.embodiment, []).append(i)
    return {body: [mine[i] for i in _spread(len(mine))] for body, mine in out.items()}


def _spread(count: int) -> list[int]:
    """At most `CLIPS` of so many clips, spread evenly."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(CLIPS, count)).astype(int))]


def propose_gaps(
    caches: FrameCache | Sequence[FrameCache],
    motion: float = MOTION,
    progress: Callable[[str], None] | None = None,
) -> Mapping[str, float]:
    """H of every body of one or several frame caches [s], by its name; a body is judged over all of them.

    Raises:
        InputError: a body in whose clips nothing moves far enough.
    """
    caches = [caches] if isinstance(caches, FrameCache) else caches
    facts = [facts_of(cache.clips) for cache in caches]
    gaps: dict[str, float] = {}
    for body in sorted({body for one in facts for body in one.embodiments}):
        mine = [
            (number, i)
            for number, one in enumerate(facts)
            if body in one.bodies
            for i in np.flatnonzero(one.body == one.bodies.index(body)).tolist()
        ]
        mine = [mine[n] for n in _spread(len(mine))]
        found = propose_gap(
            body,
            [frames_to_move(np.asarray(caches[number].clip_frames(i))) for number, i in mine],
            [float(facts[number].fps[i]) for number, i in mine],
            motion,
        )
        if found.gap_s is None:
            remedy = "Give a gap in seconds, leave this body out, or give it longer clips."
            raise InputError(f"gap of body {body!r}", expected="motion", got=found.text(), remedy=remedy)
        gaps[body] = found.gap_s
        if progress is not None:
            progress(f"{body}: {found.text()}")
    return gaps


def _reach(num_frames: int) -> int:
    """How many frames apart the frames of a pair may lie: at most half the clip, so that moments can differ."""
    return min(GAPS[-1], max(1, num_frames // 2))


def _moments(num_frames: int, moments: int) -> Int64:
    last = num_frames - 1 - _reach(num_frames)
    return np.unique(np.linspace(0, last, moments).astype(np.int64))


def _few_square(frames: UInt8, moments: int) -> UInt8:
    """The clip at `SIZE_PX`; frames that no pair needs stay black, for only few are looked at."""
    out = np.zeros((len(frames), SIZE_PX, SIZE_PX, 3), np.uint8)
    reach = _reach(len(frames))
    now = _moments(len(frames), moments)
    needed = np.unique([t + gap for t in now for gap in (0, *GAPS) if gap <= reach]).astype(np.int64)
    out[needed] = resize_square(np.asarray(frames[needed]), SIZE_PX)
    return out


def _crossing(gaps: Float64, ways: Float64) -> float:
    """Where the way first reaches `LOOK`, on a line between the gaps."""
    if ways.max() < STILL:
        return np.nan
    far = np.flatnonzero(ways >= LOOK)
    if not len(far):
        return np.inf
    i = int(far[0])
    share = (LOOK - ways[i - 1]) / (ways[i] - ways[i - 1])
    return float(gaps[i - 1] + share * (gaps[i] - gaps[i - 1]))
