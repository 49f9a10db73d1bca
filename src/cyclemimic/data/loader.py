"""Batches of frame pairs, each a pure function of (seed, step); and splits by clip. Engineering."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.mixture import Mixture, mixture_weights
from cyclemimic.data.pairs import PairIndex, clip_gap, valid_pairs
from cyclemimic.data.still import thin_still
from cyclemimic.data.true_actions import ActionTable, TrueActions, action_table
from cyclemimic.errors import InputError
from cyclemimic.nn.words import WordHash
from cyclemimic.randomness import draw_for, rng_for
from cyclemimic.store.flow_cache import FlowCache, frames_hash
from cyclemimic.store.frame_cache import FrameCache, SkippedClip
from cyclemimic.types import ClipInfo, Float32, Gap, Int64, UInt8


@dataclass(frozen=True, kw_only=True)
class PairArrays:
    """B pairs: pictures, and where they come from; what a loader was not asked for is None."""

    now: UInt8  # [B, S, S, 3]
    later: UInt8  # [B, S, S, 3]
    body: Int64  # [B], index into the loader's `bodies`
    clip: Int64  # [B], index into the loader's `clips`
    frame: Int64  # [B], t: the earlier frame's index within its clip
    pair: Int64  # [B], the pair's number: `take` of a loader of the same settings gives it again
    latest: UInt8 | None = None  # [B, S, S, 3], o_t+2H of the same clip and shot
    flow: NDArray[np.float16] | None = None  # [B, 2, h, w], where later's pixels come from, in half pictures
    words: Int64 | None = None  # [B, W], the clip's sentence, hashed; 0 is padding
    action: Float32 | None = None  # [B, A], true motion from now to later over `action_std`; 0 where unknown
    action_known: NDArray[np.bool_] | None = None  # [B]

    def __len__(self) -> int:
        return len(self.body)


class PairLoader:
    """Draws pairs from one or several caches of one picture size.

    Every draw is independent: first a body by the mixture's weights, then one of its pairs, all alike.
    There are no epochs, so a run that goes on at step n needs nothing but n.

    Args:
        caches: one per source.
        gap_s: the time between the frames of a pair [s], of all bodies or of each; one for all caches, or one each.
        mixture: how often each body is drawn.
        seed: with the step, decides every batch.
        batch_size: B.
        keep: per cache the indices of the clips to draw from, such as one side of `split_clips`; None: all.
        triplets: draw only pairs with a third frame at t + 2 H, and give it as `latest`.
        flow: a flow cache per cache; fills `flow`.
        words: how sentences become numbers; fills `words`.
        actions: the true motion of a share of the clips; fills `action` and `action_known`.
        cuts: per cache and clip the frames with which a new shot begins (`cuts_of`); no pair lies across one.
        moving: per cache how much every pair moves (`moving_shares`); pairs in which nothing moves are thinned out.
        still_share: how many of each body's pairs may be still, in [0, 1).

    Raises:
        InputError: caches of different sizes, no pairs, a mixture that names unknown bodies, a flow cache of other
        frames or another gap, or true actions that do not fit the clips.
    """

    def __init__(
        self,
        caches: Sequence[FrameCache],
        gap_s: Gap | Sequence[Gap],
        mixture: Mixture = "uniform",
        seed: int = 0,
        batch_size: int = 32,
        *,
        keep: Sequence[Int64] | None = None,
        triplets: bool = False,
        flow: Sequence[FlowCache] | None = None,
        words: WordHash | None = None,
        actions: TrueActions | None = None,
        cuts: Sequence[Sequence[Int64]] | None = None,
        moving: Sequence[Float32] | None = None,
        still_share: float = 0.1,
    ) -> None:
        gaps = list(gap_s) if isinstance(gap_s, Sequence) else [gap_s] * len(caches)
        _check(caches, gaps, batch_size, keep)
        _check_further(caches, gaps, flow, cuts, moving, still_share)
        self.caches, self.seed, self.batch_size, self.triplets = tuple(caches), seed, batch_size, triplets
        self.bodies: tuple[str, ...] = tuple(sorted({b for c in caches for b in c.embodiments}))
        self.clips: tuple[ClipInfo, ...] = tuple(info for c in caches for info in c.clips)
        self._cache_of_clip = np.repeat(np.arange(len(caches)), [len(c) for c in caches])
        self._offset_of_clip = np.concatenate([c.offsets for c in caches])
        self._body_of_clip = np.array([self.bodies.index(c.embodiment) for c in self.clips], np.int64)
        self._gap_of_clip = np.zeros(len(self.clips), np.int64)
        # Plain views: indexing a memmap object costs a Python-level finalizer per call.
        self._frames = [np.asarray(c.frames) if isinstance(c.frames, np.ndarray) else c.frames for c in caches]
        self._clip, self._now, self.skipped = self._index(gaps, keep, cuts)
        # Where the rows of each clip begin in what is kept for every pair of a cache: its flow, how much it moves.
        self._pairs_before_clip = np.concatenate([_pairs_before(c, g) for c, g in zip(caches, gaps, strict=True)])
        self.num_still_dropped = 0
        if moving is not None:
            self._thin_out(moving, still_share)
        # Pairs grouped by body, so that "one of a body's pairs" is one integer.
        bodies = self._body_of_clip[self._clip]
        self._by_body = np.argsort(bodies, kind="stable")
        self.pairs_per_body: Int64 = np.bincount(bodies, minlength=len(self.bodies)).astype(np.int64)
        self._first_of_body = np.cumsum(self.pairs_per_body) - self.pairs_per_body
        self.weights: NDArray[np.float64] = mixture_weights(mixture, self.bodies, self.pairs_per_body.tolist())
        self._flow = [np.asarray(f.flow) for f in flow or ()]
        self._words_of_clip = None if words is None else np.stack([words(c.instruction) for c in self.clips])
        self._actions: ActionTable | None = None
        if actions is not None:
            later = self._now + self._gap_of_clip[self._clip]
            self._actions = action_table(actions, self.clips, seed, self._clip, self._now, later)

    @property
    def action_std(self) -> Float32 | None:
        """What true actions [A] are divided by: their spread over the labelled pairs; None without true actions."""
        return None if self._actions is None else self._actions.std

    @property
    def labelled_clips(self) -> tuple[str, ...]:
        """Names of the clips whose true motion is used, for the record."""
        if self._actions is None:
            return ()
        return tuple(clip.name for clip, row in zip(self.clips, self._actions.first, strict=True) if row >= 0)

    @property
    def gap_frames(self) -> Int64:
        """H of each clip in frames [clips]; 0 for clips without a pair."""
        return self._gap_of_clip

    @property
    def num_pairs(self) -> int:
        """How many different pairs there are."""
        return len(self._clip)

    def batch(self, step: int, rows: slice = slice(None)) -> PairArrays:
        """The batch of a step: the same for the same (seed, step), whatever was drawn before.

        With `rows` only these of its B rows are read: each process of several reads its own.
        """
        rng = rng_for(self.seed, step, "pairs")
        body = rng.choice(len(self.bodies), self.batch_size, p=self.weights)
        within = rng.integers(0, self.pairs_per_body[body])
        return self.take(self._by_body[self._first_of_body[body] + within][rows])

    def all_pairs(self, batch_size: int, *, shard: int = 0, num_shards: int = 1, skip: int = 0) -> Iterator[PairArrays]:
        """Every pair once, clip after clip, ascending in time; the last batch may be smaller.

        With `num_shards`, clips are dealt into that many contiguous runs and only run `shard` is given: a
        clip never straddles two shards, and a run may be empty. The first `skip` batches are left out, unread.
        """
        if not (batch_size > 0 and 0 <= shard < num_shards):
            got = f"batch_size {batch_size}, shard {shard} of {num_shards}"
            raise InputError("all_pairs", expected="0 <= shard < num_shards", got=got, remedy="Count from 0.")
        used = np.unique(self._clip)
        mine = np.array_split(used, num_shards)[shard]
        if len(mine):
            start, stop = np.searchsorted(self._clip, [mine[0], mine[-1] + 1])
            for i in range(int(start) + skip * batch_size, int(stop), batch_size):
                yield self.take(np.arange(i, min(i + batch_size, int(stop))))

    def take(self, pairs: NDArray[np.integer]) -> PairArrays:
        """The pairs of the given numbers [B], each below `num_pairs`."""
        pair = np.asarray(pairs, np.int64)
        clip = self._clip[pair]
        row, gap, cache = (
            self._offset_of_clip[clip] + self._now[pair],
            self._gap_of_clip[clip],
            self._cache_of_clip[clip],
        )
        looks = 2 + self.triplets
        # At once, not picture by picture: where frames are decoded when asked for, those of one clip come in one pass.
        rows = np.concatenate([row + i * gap for i in range(looks)])
        pictures = _gather(self._frames, np.tile(cache, looks), rows)
        return self._described(pair, np.split(pictures, looks))

    def _described(self, pair: Int64, pictures: Sequence[UInt8]) -> PairArrays:
        """Pairs of the given numbers [B] with their pictures [B, S, S, 3]: now, later and, for triplets, latest."""
        clip, now = self._clip[pair], self._now[pair]
        gap, cache = self._gap_of_clip[clip], self._cache_of_clip[clip]
        words = None if self._words_of_clip is None else self._words_of_clip[clip]
        action, known = (None, None) if self._actions is None else self._actions.of(clip, now, now + gap)
        return PairArrays(
            now=pictures[0],
            later=pictures[1],
            body=self._body_of_clip[clip],
            clip=clip,
            frame=now,
            pair=pair,
            latest=pictures[2] if self.triplets else None,
            flow=_gather(self._flow, cache, self._pairs_before_clip[clip] + now) if self._flow else None,
            words=words,
            action=action,
            action_known=known,
        )

    def _index(
        self, gaps: Sequence[Gap], keep: Sequence[Int64] | None, cuts: Sequence[Sequence[Int64]] | None
    ) -> tuple[Int64, Int64, tuple[SkippedClip, ...]]:
        clips: list[Int64] = []
        nows: list[Int64] = []
        skipped: list[SkippedClip] = []
        first_clip = 0
        for i, cache in enumerate(self.caches):
            chosen = np.arange(len(cache)) if keep is None else np.unique(np.asarray(keep[i], np.int64))
            if len(chosen):
                shots = None if cuts is None else [cuts[i][c] for c in chosen]
                kept = [cache.clips[c] for c in chosen]
                index: PairIndex = valid_pairs(kept, gaps[i], reach=1 + self.triplets, cuts=shots)
                here = first_clip + chosen
                clips.append(here[index.clip])
                nows.append(index.now)
                skipped += index.skipped
                self._gap_of_clip[here] = index.gap_frames
            first_clip += len(cache)
        return np.concatenate(clips), np.concatenate(nows), tuple(skipped)

    def _thin_out(self, moving: Sequence[Float32], still_share: float) -> None:
        row = self._pairs_before_clip[self._clip] + self._now
        shares = _gather(list(moving), self._cache_of_clip[self._clip], row)
        stays = thin_still(shares, self._body_of_clip[self._clip], still_share)
        if not stays.any():
            remedy = "Give a longer gap, or keep still pairs."
            raise InputError("moving", expected="a pair in which something moves", got="none", remedy=remedy)
        self.num_still_dropped = int((~stays).sum())
        self._clip, self._now = self._clip[stays], self._now[stays]


def _pairs_before(cache: FrameCache, gap_s: Gap) -> Int64:
    """How many pairs of a cache lie before each of its clips."""
    counts = np.array([max(0, c.num_frames - clip_gap(gap_s, c)) for c in cache.clips], np.int64)
    return np.cumsum(counts) - counts


def _gather(files: Sequence[NDArray[Any]], of_row: Int64, row: Int64) -> NDArray[Any]:
    """Rows of several arrays of one shape, each from the array that `of_row` names."""
    if len(files) == 1:
        return files[0][row]
    out = np.empty((len(row), *files[0].shape[1:]), files[0].dtype)
    for i in np.unique(of_row):
        here = np.flatnonzero(of_row == i)
        out[here] = files[i][row[here]]
    return out


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
    draws = np.array([draw_for(seed, group(c)) for c in clips], np.float64)
    test, held_out = draws < held_out_fraction / 2, draws < held_out_fraction
    sides = (~held_out, held_out & ~test, test)
    train, val, test_side = (np.flatnonzero(side).astype(np.int64) for side in sides)
    return Split(train=train, val=val, test=test_side)


def _check(caches: Sequence[FrameCache], gaps: Sequence[Gap], batch_size: int, keep: Sequence[Int64] | None) -> None:
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


def _check_further(
    caches: Sequence[FrameCache],
    gaps: Sequence[Gap],
    flow: Sequence[FlowCache] | None,
    cuts: Sequence[Sequence[Int64]] | None,
    moving: Sequence[Float32] | None,
    still_share: float,
) -> None:
    for name, values in (("flow", flow), ("cuts", cuts), ("moving", moving)):
        if values is not None and len(values) != len(caches):
            expected, got = f"one entry per cache ({len(caches)})", str(len(values))
            raise InputError(name, expected=expected, got=got, remedy="Give them in the caches' order.")
    for cache, gap_s, found in zip(caches, gaps, flow or (), strict=False):
        if (found.frames_sha256, found.gap_s) != (frames_hash(cache), gap_s):
            same = "other frames" if found.gap_s == gap_s else f"a gap of {found.gap_s} s"
            remedy = "Build the flow of these frames with this gap."
            raise InputError("flow", expected=f"flow over {gap_s} s", got=same, remedy=remedy)
    for cache, shots in zip(caches, cuts or (), strict=False):
        if len(shots) != len(cache):
            expected, got = f"cuts of {len(cache)} clips", str(len(shots))
            raise InputError("cuts", expected=expected, got=got, remedy="Find the cuts of this cache.")
    for cache, gap_s, shares in zip(caches, gaps, moving or (), strict=False):
        num_pairs = sum(max(0, c.num_frames - clip_gap(gap_s, c)) for c in cache.clips)
        if len(shares) != num_pairs:
            expected, got = f"how much {num_pairs} pairs move", str(len(shares))
            raise InputError("moving", expected=expected, got=got, remedy="Measure this cache with this gap.")
    if not 0 <= still_share < 1:
        expected = "a share in [0, 1)"
        raise InputError("still_share", expected=expected, got=str(still_share), remedy="Try 0.1.")
