"""Held-out frame pairs, with or without the true motion between them: what every measurement looks at.

Letters in shapes: n pairs, S side of the picture, T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.pairs import PairIndex, valid_pairs
from cyclemimic.errors import InputError
from cyclemimic.evaluate.motion import HAND, Motion
from cyclemimic.randomness import rng_for
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Float32, Gap, Int64, UInt8


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """n frame pairs, the body and the clip of each. `body` counts in `bodies`, `clip` in the cache's list."""

    now: UInt8  # [n, S, S, 3]
    later: UInt8  # [n, S, S, 3]
    body: Int64  # [n]
    clip: Int64  # [n]
    bodies: tuple[str, ...]
    frame: Int64 | None = None  # [n], t: the frame now within its clip, where the clips are known
    clip_names: tuple[str, ...] = ()  # of the cache's list
    row: Int64 | None = None  # [n, 2], which of the cache's frames are now and later, where there is a cache

    def __len__(self) -> int:
        return len(self.now)

    def take(self, index: Int64) -> Self:
        """The pairs that `index` names, in its order."""
        arrays: dict[str, Any] = {
            name: value[index] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **arrays)

    def of_body(self, name: str) -> Int64:
        """Positions of the pairs that show the body `name`; empty where it is not filmed."""
        if name not in self.bodies:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.body == self.bodies.index(name))

    def thinned(self, limit: int, seed: int) -> Self:
        """At most `limit` of the pairs, drawn without replacement and kept in order."""
        if len(self) <= limit:
            return self
        drawn = rng_for(seed, 0, "evaluate/thinned").choice(len(self), limit, replace=False)
        return self.take(np.sort(drawn).astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class TruePairs(Pairs):
    """Frame pairs whose true motion is known (a simulator's, or proprioception): for measurements only.

    Metres, unless `motion` says that a state without a hand's place is measured along its main axes.
    """

    displacement_m: Float32  # [n, 3], the hand's tip: later - now
    position_m: Float32 | None = None  # [n, 3], the tip in the frame now
    motion: Motion = HAND

    def __post_init__(self) -> None:
        counts = {len(self.now), len(self.later), len(self.body), len(self.clip), len(self.displacement_m)}
        if len(counts) != 1 or self.displacement_m.shape[1:] != (3,):
            raise InputError(
                "TruePairs",
                expected="as many displacements [n, 3] as pairs",
                got=f"{len(self.now)} pairs and displacements {self.displacement_m.shape}",
                remedy="Give one displacement in metres for each pair.",
            )


def frame_pairs(cache: FrameCache, *, gap_s: Gap, limit: int, seed: int) -> Pairs:
    """Draw about `limit` pairs, as many from each body, without asking for actions.

    Raises:
        InputError: no clip is longer than the gap.
    """
    index, kept = _draw(cache, gap_s, limit, seed)
    fields: dict[str, Any] = _pictures(cache, index, kept)
    return Pairs(**fields)


def true_pairs(
    cache: FrameCache,
    positions: Mapping[str, NDArray[np.floating[Any]]],
    *,
    gap_s: Gap,
    limit: int,
    seed: int,
    motion: Motion = HAND,
) -> TruePairs:
    """Draw about `limit` pairs, as many from each body, with the tip's true displacement over the gap.

    Args:
        cache: the clips' frames.
        positions: clip name -> the tip's place [T, 3] in metres, in the frame of the table.
        gap_s: seconds between now and later.
        limit: how many pairs at most.
        seed: which pairs; the same seed draws the same pairs.
        motion: what positions are, where they are not metres.

    Raises:
        InputError: a clip without positions, or with another number of them than frames; no clip long enough.
    """
    for info in cache.clips:
        place = positions.get(info.name)
        if place is None or place.shape != (info.num_frames, 3):
            raise InputError(
                f"positions of clip {info.name!r}",
                expected=f"metres [{info.num_frames}, 3]",
                got="none" if place is None else str(place.shape),
                remedy="Measure transfer on a source whose episodes carry proprioception.",
            )
    index, kept = _draw(cache, gap_s, limit, seed)
    places = [positions[cache.clips[i].name] for i in index.clip[kept]]
    now = np.stack([place[t] for place, t in zip(places, index.now[kept], strict=True)])
    later = np.stack([place[t] for place, t in zip(places, index.later[kept], strict=True)])
    return TruePairs(
        **_pictures(cache, index, kept),
        displacement_m=(later - now).astype(np.float32),
        position_m=now.astype(np.float32),
        motion=motion,
    )


def _draw(cache: FrameCache, gap_s: Gap, limit: int, seed: int) -> tuple[PairIndex, Int64]:
    """All pairs of the cache, and which of them are drawn: [n], ascending."""
    index = valid_pairs(cache.clips, gap_s)
    names = np.array([info.embodiment for info in cache.clips])[index.clip]
    bodies = sorted(set(names.tolist()))
    rng = rng_for(seed, 0, "evaluate/moments")
    share = max(1, limit // len(bodies))
    drawn = [rng.permutation(np.flatnonzero(names == body))[:share] for body in bodies]
    return index, np.sort(np.concatenate(drawn)).astype(np.int64)


def _pictures(cache: FrameCache, index: PairIndex, kept: Int64) -> dict[str, Any]:
    """The fields of `Pairs` for the pairs drawn."""
    clip = index.clip[kept]
    bodies = tuple(sorted({info.embodiment for info in cache.clips}))
    number = np.array([bodies.index(info.embodiment) for info in cache.clips], np.int64)
    start = np.asarray(cache.offsets, np.int64)[clip]
    row = start + index.now[kept], start + index.later[kept]
    return {
        "now": np.asarray(cache.frames[row[0]]),
        "later": np.asarray(cache.frames[row[1]]),
        "row": np.stack(row, axis=1),
        "body": number[clip],
        "clip": clip,
        "bodies": bodies,
        "frame": index.now[kept],
        "clip_names": tuple(info.name for info in cache.clips),
    }
