"""Batches of frame pairs, each a pure function of (seed, step); and splits by clip. Engineering."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.mixture import Mixture, mixture_weights
from cyclemimic.data.pairs import PairIndex, valid_pairs
from cyclemimic.errors import InputError
from cyclemimic.randomness import rng_for
from cyclemimic.store.frame_cache import FrameCache, SkippedClip
from cyclemimic.types import ClipInfo, Int64, UInt8


@dataclass(frozen=True, kw_only=True)
class PairArrays:
    """B pairs: pictures, and where they come from."""

    now: UInt8  # [B, S, S, 3]
    later: UInt8  # [B, S, S, 3]
    body: Int64  # [B], index into the loader's `bodies`
    clip: Int64  # [B], index into the loader's `clips`
    frame: Int64  # [B], t: the earlier frame's index within its clip

    def __len__(self) -> int:
        return len(self.body)


class PairLoader:
    """Draws pairs from one or several caches of one picture size.

    Every draw is independent: first a body by the mixture's weights, then one of its pairs, all alike.
    There are no epochs, so a run that goes on at step n needs nothing but n.

    Args:
        caches: one per source.
        gap_s: the time between the frames of a pair [s]; one number, or one per cache.
        mixture: how often each body is drawn.
        seed: with the step, decides every batch.
        batch_size: B.
        keep: per cache the indices of the clips to draw from, such as one side of `split_clips`; None: all.

    Raises:
        InputError: caches of different sizes, no pairs, or a mixture that names unknown bodies.
    """

    def __init__(
        self,
        caches: Sequence[FrameCache],
        gap_s: float | Sequence[float],
        mixture: Mixture = "uniform",
        seed: int = 0,
        batch_size: int = 32,
        *,
        keep: Sequence[Int64] | None = None,
    ) -> None:
        gaps = list(gap_s) if isinstance(gap_s, Sequence) else [gap_s] * len(caches)
        _check(caches, gaps, batch_size, keep)
        self.caches, self.seed, self.batch_size = tuple(caches), seed, batch_size
        self.bodies: tuple[str, ...] = tuple(sorted({b for c in caches for b in c.embodiments}))
        self.clips: tuple[ClipInfo, ...] = tuple(info for c in caches for info in c.clips)
        self._cache_of_clip = np.repeat(np.arange(len(caches)), [len(c) for c in caches])
        self._offset_of_clip = np.concatenate([c.offsets for c in caches])
        self._body_of_clip = np.array([self.bodies.index(c.embodiment) for c in self.clips], np.int64)
        self._gap_of_clip = np.zeros(len(self.clips), np.int64)
        # Plain views: indexing a memmap object costs a Python-level finalizer per call.
        self._frames = [np.asarray(c.frames) for c in caches]
        self._clip, self._now, self.skipped = self._index(gaps, keep)
        # Pairs grouped by body, so that "one of a body's pairs" is one integer.
        bodies = self._body_of_clip[self._clip]
        self._by_body = np.argsort(bodies, kind="stable")
        self.pairs_per_body: Int64 = np.bincount(bodies, minlength=len(self.bodies)).astype(np.int64)
        self._first_of_body = np.cumsum(self.pairs_per_body) - self.pairs_per_body
        self.weights: NDArray[np.float64] = mixture_weights(mixture, self.bodies, self.pairs_per_body.tolist())

    @property
    def num_pairs(self) -> int:
        """How many different pairs there are."""
        return len(self._clip)

    def batch(self, step: int) -> PairArrays:
        """The batch of a step: the same for the same (seed, step), whatever was drawn before."""
        rng = rng_for(self.seed, step, "pairs")
        body = rng.choice(len(self.bodies), self.batch_size, p=self.weights)
        within = rng.integers(0, self.pairs_per_body[body])
        return self.take(self._by_body[self._first_of_body[body] + within])

    def all_pairs(self, batch_size: int, *, shard: int = 0, num_shards: int = 1) -> Iterator[PairArrays]:
        """Every pair once, clip after clip, ascending in time; the last batch may be smaller.

        With `num_shards`, clips are dealt into that many contiguous runs and only run `shard` is given: a
        clip never straddles two shards, and a run may be empty.
        """
        if not (batch_size > 0 and 0 <= shard < num_shards):
            got = f"batch_size {batch_size}, shard {shard} of {num_shards}"
            raise InputError("all_pairs", expected="0 <= shard < num_shards", got=got, remedy="Count from 0.")
        used = np.unique(self._clip)
        mine = np.array_split(used, num_shards)[shard]
        if len(mine):
            start, stop = np.searchsorted(self._clip, [mine[0], mine[-1] + 1])
            for i in range(int(start), int(stop), batch_size):
                yield self.take(np.arange(i, min(i + batch_size, int(stop))))

    def take(self, pairs: NDArray[np.integer]) -> PairArrays:
        """The pairs of the given numbers [B], each below `num_pairs`."""
        clip, now = self._clip[pairs], self._now[pairs]
        row = self._offset_of_clip[clip] + now
        cache = self._cache_of_clip[clip]
        size_px = self.caches[0].size_px
        out_now = np.empty((len(clip), size_px, size_px, 3), np.uint8)
        out_later = np.empty_like(out_now)
        for i in np.unique(cache):
            here = np.flatnonzero(cache == i)
            out_now[here] = self._frames[i][row[here]]
            out_later[here] = self._frames[i][row[here] + self._gap_of_clip[clip[here]]]
        body = self._body_of_clip[clip]
        return PairArrays(now=out_now, later=out_later, body=body, clip=clip, frame=now)

    def _index(
        self, gaps: Sequence[float], keep: Sequence[Int64] | None
    ) -> tuple[Int64, Int64, tuple[SkippedClip, ...]]:
        clips: list[Int64] = []
        nows: list[Int64] = []
        skipped: list[SkippedClip] = []
        first_clip = 0
        for i, cache in enumerate(self.caches):
            chosen = np.arange(len(cache)) if keep is None else np.unique(np.asarray(keep[i], np.int64))
            if len(chosen):
                index: PairIndex = valid_pairs([cache.clips[c] for c in chosen], gaps[i])
                here = first_clip + chosen
                clips.append(here[index.clip])
                nows.append(index.now)
                skipped += index.skipped
                self._gap_of_clip[here] = index.gap_frames
            first_clip += len(cache)
        return np.concatenate(clips), np.concatenate(nows), tuple(skipped)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Indices of the clips of each side, ascending; together all clips, each once."""

    train: Int64
    val: Int64
    test: Int64


def recording_of(clip: ClipInfo) -> str:
    """What must stay on one side of a split: the clip's name without a part number ('x__part3.mp4')."""
    return re.sub(r"[-_.]+part[-_]?\d+(?=\.[^./]*$|$)", "", clip.name)


def split_clips(
    clips: Sequence[ClipInfo],
    held_out_fraction: float,
    seed: int,
    *,
    group: Callable[[ClipInfo], str] = recording_of,
) -> Split:
    """Hold out about `held_out_fraction` of the clips, half of them for validation and half for the test.

    A clip's side depends on nothing but `seed` and its group's name, so new clips never move old ones. With
    few clips a side may therefore come out empty.
    """
    if not 0 <= held_out_fraction < 1:
        expected = "a fraction in [0, 1)"
        raise InputError("held_out_fraction", expected=expected, got=str(held_out_fraction), remedy="Try 0.2.")
    draws = np.array([_draw(seed, group(c)) for c in clips], np.float64)
    test, held_out = draws < held_out_fraction / 2, draws < held_out_fraction
    sides = (~held_out, held_out & ~test, test)
    train, val, test_side = (np.flatnonzero(side).astype(np.int64) for side in sides)
    return Split(train=train, val=val, test=test_side)


def _draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on (seed, name) alone."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _check(caches: Sequence[FrameCache], gaps: Sequence[float], batch_size: int, keep: Sequence[Int64] | None) -> None:
    sizes = sorted({c.size_px for c in caches})
    if len(sizes) != 1:
        remedy = "Build all caches at one size."
        raise InputError("caches", expected="one picture size [px]", got=str(sizes), remedy=remedy)
    if batch_size < 1:
        raise InputError("batch_size", expected="at least 1", got=str(batch_size), remedy="Try 32.")
    for name, values in (("gap_s", gaps), ("keep", keep)):
        if values is not None and len(values) != len(caches):
            expected, got = f"one entry per cache ({len(caches)})", str(len(values))
            raise InputError(name, expected=expected, got=got, remedy="Give them in the caches' order.")
    if keep is not None and not any(len(k) for k in keep):
        remedy = "With few clips a side of a split may be empty; hold out more, or change the seed."
        raise InputError("keep", expected="at least one clip", got="none", remedy=remedy)
    for cache, chosen in zip(caches, keep or (), strict=False):
        if len(chosen) and (np.min(chosen) < 0 or np.max(chosen) >= len(cache)):
            expected, got = f"clips below {len(cache)}", f"up to {np.max(chosen)}"
            raise InputError("keep", expected=expected, got=got, remedy="Split the clips of this cache.")
