"""Clips that show the same, byte by byte or encoded again. Numpy and OpenCV. Engineering.

Two episodes of one robot at one table look alike in almost every pixel and are no duplicates. So what is compared is
what changes within a clip: a few small grey pictures over its length. The same video encoded again differs from
itself by far less than it changes in the course of the clip; another episode differs by as much.

Not found: a clip that was cut shorter, mirrored, or played at another speed in part.

Letters in shapes: T frames of a clip, M moments of a clip, g side of a look, n clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.flow import opencv
from cyclemimic.types import Float32, UInt8

MOMENTS, SIDE_PX = 8, 24
NEAR = 0.35  # a difference of less than this share of what changes in the clips is no other clip's
LEAST_MOTION = 6.0  # of 255: of a clip that changes less, this counts
ALIKE = 0.8  # cosine of what changes, from which on two clips are looked at closely
TOP_SHARE = 0.05  # of the pixels, those that differ most, are what counts
LENGTHS = 0.1  # duplicates last equally long but for this share
_CHUNK_CLIPS = 1024


@dataclass(frozen=True, kw_only=True)
class ClipLook:
    """What a clip is known again by: a hash of every small frame, and grey means over stretches [M, g, g]."""

    digest: str
    moments: UInt8
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A clip that shows what an earlier one shows: places in the list that was given."""

    clip: int
    of: int
    exact: bool  # every small frame is equal
    difference: float  # as a share of what changes within the clips


def look_at(frames: UInt8, fps: float) -> ClipLook:
    """What a clip [T, S, S, 3] is known again by; S is small, and the same for all clips.

    A moment is a mean over an eighth of the clip, so that another frame rate, which shows other frames, changes little.
    """
    cv2 = opencv()
    digest = hashlib.sha256(f"{frames.shape} {fps:.3f}".encode())
    digest.update(np.ascontiguousarray(frames).data)
    small = np.empty((len(frames), SIDE_PX, SIDE_PX), np.float32)
    for t, frame in enumerate(frames):
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        small[t] = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    # Sums up to places between frames too: a stretch need not begin with one.
    sums = np.concatenate([np.zeros((1, SIDE_PX, SIDE_PX)), np.cumsum(small, 0, dtype=np.float64)])
    edges = np.linspace(0, len(frames), MOMENTS + 1)
    whole = np.minimum(edges.astype(int), len(frames) - 1)
    until = sums[whole] + (edges - whole)[:, None, None] * small[whole]
    moments = (np.diff(until, axis=0) * (MOMENTS / len(frames))).round().clip(0, 255).astype(np.uint8)
    return ClipLook(digest=digest.hexdigest(), moments=moments, duration_s=len(frames) / fps)


def find_duplicates(looks: Sequence[ClipLook]) -> list[Duplicate]:
    """Every clip that shows what an earlier one shows, ascending; each is named once, beside the first of its kind."""
    first: dict[str, int] = {}
    found: dict[int, Duplicate] = {}
    for i, look in enumerate(looks):
        of = first.setdefault(look.digest, i)
        if of != i:
            found[i] = Duplicate(clip=i, of=of, exact=True, difference=0.0)
    kept = np.array(sorted(first.values()), np.int64)
    # In order, so that a chain of copies is named after its first clip.
    for one, other in _candidates([looks[i] for i in kept]):
        a, b = int(kept[one]), int(kept[other])
        if b in found:
            continue
        apart = difference(looks[a].moments, looks[b].moments)
        if apart < NEAR:
            of = found[a].of if a in found else a
            found[b] = Duplicate(clip=b, of=of, exact=False, difference=apart)
    for i, twin in found.items():
        if twin.exact and twin.of in found:  # whose first was found to show what an earlier one shows
            found[i] = replace(found[twin.of], clip=i)
    return [found[i] for i in sorted(found)]


def difference(one: UInt8, other: UInt8) -> float:
    """How far two clips' moments [M, g, g] lie apart, as a share of what changes in the course of either."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    # Brightness and contrast are the encoder's or the player's, not the scene's.
    spread = float(a.std())
    gain = float(((a - a.mean()) * (b - b.mean())).mean()) / max(spread * spread, 1e-6)
    moves = min(_moves(a), _moves(b))
    apart = _top(np.abs((b - b.mean()) - gain * (a - a.mean())))
    return apart / max(moves, LEAST_MOTION)


def _moves(moments: Float32) -> float:
    """How much changes in the course of a clip."""
    return _top(np.abs(moments - np.median(moments, 0)))


def _top(values: Float32) -> float:
    flat = values.ravel()
    count = max(1, int(len(flat) * TOP_SHARE))
    return float(np.partition(flat, -count)[-count:].mean())


def _candidates(looks: Sequence[ClipLook]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of clips that change alike and last equally long, ascending."""
    if len(looks) < 2:
        return []
    changes, scenes, lasts = _unit(looks, change=True), _unit(looks, change=False), _durations(looks)
    quiet = np.array([_moves(look.moments.astype(np.float32)) < LEAST_MOTION for look in looks])
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(looks), _CHUNK_CLIPS):
        rows = slice(start, start + _CHUNK_CLIPS)
        alike = changes[rows] @ changes.T >= ALIKE
        alike |= (quiet[rows, None] & quiet[None]) & (scenes[rows] @ scenes.T >= 0.95)
        alike &= np.abs(lasts[rows, None] - lasts[None]) <= LENGTHS * np.maximum(lasts[rows, None], lasts[None])
        earlier, later = np.nonzero(alike)
        earlier += start
        pairs += [(int(i), int(j)) for i, j in zip(earlier, later, strict=True) if i < j]
    return pairs


def _unit(looks: Sequence[ClipLook], *, change: bool) -> NDArray[np.float32]:
    """What changes in each clip, or what does not, as rows of length 1 [n, ...]."""
    side = SIDE_PX // 2  # coarser: this only says where to look closely, and lies in memory for all clips
    rows = np.empty((len(looks), MOMENTS * side**2 if change else side**2), np.float32)
    for i, look in enumerate(looks):
        moments = look.moments.reshape(MOMENTS, side, 2, side, 2).mean((2, 4), dtype=np.float32)
        scene = np.median(moments, 0)
        rows[i] = (moments - scene if change else scene - scene.mean()).ravel()
        rows[i] /= max(float(np.linalg.norm(rows[i])), 1e-6)
    return rows


def _durations(looks: Sequence[ClipLook]) -> NDArray[np.float64]:
    return np.array([look.duration_s for look in looks])
