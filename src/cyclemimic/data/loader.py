"""Batches of frame pairs, each a pure function of (seed, step); and splits by clip. Engineering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.mixture import Mixture, SourceWeights, mixture_weights
from cyclemimic.data.pairs import PairRuns, gaps_in_frames, joined, pair_runs, skipped_clips
from cyclemimic.data.still import thin_still
from cyclemimic.data.true_actions import ActionTable, TrueActions, action_table
from cyclemimic.errors import InputError
from cyclemimic.nn.words import WordHash
from cyclemimic.randomness import rng_for
from cyclemimic.store.clips import ClipFacts, chosen, facts_of
from cyclemimic.store.feature_cache import FeatureCache
from cyclemimic.store.feature_rows import FeatureRows, unpacked
from cyclemimic.store.flow_cache import FlowCache, frames_hash
from cyclemimic.store.frame_cache import FrameCache, SkippedClip
from cyclemimic.types import ClipInfo, Float32, Gap, Int64, UInt8

SENTENCES = 1 << 16  # whose words are remembered


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
    features: tuple[FeatureRows, ...] = ()  # of `now`, `later` and, for triplets, `latest`, from a feature cache

    def __len__(self) -> int:
        return len(self.body)


class PairLoader:
    """Draws pairs from one or several caches of one picture size.

    Every draw is independent: first a source, where sources have weights, then a body by the mixture's weights, then
    one of its pairs, all alike. There are no epochs, so a run that goes on at step n needs nothing but n.

    Args:
        caches: one per source.
        gap_s: the time between the frames of a pair [s], of all bodies or of each; one for all caches, or one each.
        mixture: how often each body is drawn; of each source, where sources have weights.
        seed: with the step, decides every batch.
        batch_size: B.
        sources: how often each cache is drawn; None: the mixture alone decides, over all caches.
        keep: per cache the indices of the clips to draw from, such as one side of `split_clips`; None: all.
        triplets: draw only pairs with a third frame at t + 2 H, and give it as `latest`.
        flow: a flow cache per cache; fills `flow`.
        words: how sentences become numbers; fills `words`.
        actions: the true motion of a share of the clips; fills `action` and `action_known`.
        cuts: per cache and clip the frames with which a new shot begins (`cuts_of`); no pair lies across one.
        moving: per cache how much every pair moves (`moving_shares`); pairs in which nothing moves are thinned out.
        still_share: how many of each body's pairs may be still, in [0, 1).
        features: a feature cache per cache; fills `features`. Which pairs are drawn does not depend on it.

    Raises:
        InputError: caches of different sizes, no pairs, a mixture that names unknown bodies, a flow cache of other
        frames or another gap, a feature cache of other frames, or true actions that do not fit the clips.
    """

    def __init__(
        self,
        caches: Sequence[FrameCache],
        gap_s: Gap | Sequence[Gap],
        mixture: Mixture = "uniform",
        seed: int = 0,
        batch_size: int = 32,
        *,
        sources: SourceWeights | None = None,
        keep: Sequence[Int64] | None = None,
        triplets: bool = False,
        flow: Sequence[FlowCache] | None = None,
        words: WordHash | None = None,
        actions: TrueActions | None = None,
        cuts: Sequence[Sequence[Int64]] | None = None,
        moving: Sequence[Float32] | None = None,
        still_share: float = 0.1,
        features: Sequence[FeatureCache] = (),
    ) -> None:
        gaps = list(gap_s) if isinstance(gap_s, Sequence) else [gap_s] * len(caches)
        _check(caches, gaps, batch_size, keep, sources)
        _check_further(caches, gaps, flow, cuts, moving, still_share)
        self.caches, self.seed, self.batch_size, self.triplets = tuple(caches), seed, batch_size, triplets
        self._gaps = gaps
        facts = [facts_of(c.clips) for c in caches]
        self.bodies: tuple[str, ...] = tuple(sorted({b for f in facts for b in f.embodiments}))
        one = len(caches) == 1
        self.clips: Sequence[ClipInfo] = caches[0].clips if one else tuple(info for c in caches for info in c.clips)
        self._cache_of_clip = np.repeat(np.arange(len(caches)), [len(c) for c in caches])
        self._offset_of_clip = np.concatenate([c.offsets for c in caches])
        self._body_of_clip: Int64 = np.concatenate([_numbered(f, self.bodies) for f in facts])
        self._gap_of_clip = np.zeros(len(self.clips), np.int64)
        # Plain views: indexing a memmap object costs a Python-level finalizer per call.
        self._frames = [np.asarray(c.frames) if isinstance(c.frames, np.ndarray) else c.frames for c in caches]
        self._runs = self._index(facts, keep, cuts, None if sources is None else sources.names)
        # Where the rows of each clip begin in what is kept for every pair of a cache: its flow, how much it moves.
        self._pairs_before_clip = np.concatenate([_pairs_before(f, g) for f, g in zip(facts, gaps, strict=True)])
        self.num_still_dropped = 0
        if moving is not None:
            self._thin_out(moving, still_share)
        self._group(mixture, sources)
        self._flow = [np.asarray(f.flow) for f in flow or ()]
        self._words = None if words is None else lru_cache(SENTENCES)(words)
        self._actions: ActionTable | None = None
        if actions is not None:
            clip, now = self.places(np.arange(self.num_pairs))
            self._actions = action_table(actions, self.clips, seed, clip, now, now + self._gap_of_clip[clip])
        self._features: tuple[FeatureCache, ...] = ()
        if features:
            self.use_features(features)

    def use_features(self, features: Sequence[FeatureCache]) -> None:
        """Give stored features with every pair from now on.

        Args:
            features: one per cache, all of one backbone.

        Raises:
            InputError: features of other frames than the caches', of several backbones, or frames that no cache holds.
        """
        _check_features(self.caches, features)
        self._features = tuple(features)

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
        return len(self._runs)

    @property
    def num_skipped(self) -> int:
        """How many clips to draw from have no pair."""
        return sum(len(runs.without) for _, _, runs in self._chosen)

    @cached_property
    def skipped(self) -> tuple[SkippedClip, ...]:
        """The clips to draw from that have no pair, and why."""
        reach = 1 + self.triplets
        return tuple(
            clip
            for i, which, runs in self._chosen
            for clip in skipped_clips(self.caches[i].clips, which, runs, self._gaps[i], reach)
        )

    def places(self, pairs: NDArray[np.integer]) -> tuple[Int64, Int64]:
        """Clip and earlier frame's index within it, of the pairs of the given numbers [B]."""
        return self._runs.places(np.asarray(pairs, np.int64))

    def batch(self, step: int, rows: slice = slice(None)) -> PairArrays:
        """The batch of a step: the same for the same (seed, step), whatever was drawn before.

        With `rows` only these of its B rows are read: each process of several reads its own.
        """
        rng = rng_for(self.seed, step, "pairs")
        group = rng.choice(len(self._weight_of_group), self.batch_size, p=self._weight_of_group)
        within = rng.integers(0, self._pairs_of_group[group])
        place = (self._first_of_group[group] + within)[rows]
        nth = np.searchsorted(self._before, place, side="right") - 1
        return self.take(self._runs.start[self._by_group[nth]] + (place - self._before[nth]))

    def all_pairs(self, batch_size: int, *, shard: int = 0, num_shards: int = 1, skip: int = 0) -> Iterator[PairArrays]:
        """Every pair once, clip after clip, ascending in time; the last batch may be smaller.

        With `num_shards`, clips are dealt into that many contiguous runs and only run `shard` is given: a
        clip never straddles two shards, and a run may be empty. The first `skip` batches are left out, unread.
        """
        if not (batch_size > 0 and 0 <= shard < num_shards):
            got = f"batch_size {batch_size}, shard {shard} of {num_shards}"
            raise InputError("all_pairs", expected="0 <= shard < num_shards", got=got, remedy="Count from 0.")
        used = np.unique(self._runs.clip)
        mine = np.array_split(used, num_shards)[shard]
        if len(mine):
            start, stop = self._runs.start[np.searchsorted(self._runs.clip, [mine[0], mine[-1] + 1])]
            for i in range(int(start) + skip * batch_size, int(stop), batch_size):
                yield self.take(np.arange(i, min(i + batch_size, int(stop))))

    def take(self, pairs: NDArray[np.integer]) -> PairArrays:
        """The pairs of the given numbers [B], each below `num_pairs`."""
        pair = np.asarray(pairs, np.int64)
        clip, now = self.places(pair)
        row, gap, cache = self._offset_of_clip[clip] + now, self._gap_of_clip[clip], self._cache_of_clip[clip]
        looks = 2 + self.triplets
        # At once, not picture by picture: where frames are decoded when asked for, those of one clip come in one pass.
        rows = np.concatenate([row + i * gap for i in range(looks)])
        pictures = _gather(self._frames, np.tile(cache, looks), rows)
        return self._described(pair, np.split(pictures, looks))

    def _described(self, pair: Int64, pictures: Sequence[UInt8]) -> PairArrays:
        """Pairs of the given numbers [B] with their pictures [B, S, S, 3]: now, later and, for triplets, latest."""
        clip, now = self.places(pair)
        gap, cache = self._gap_of_clip[clip], self._cache_of_clip[clip]
        words = None if self._words is None else np.stack([self._words(self.clips[i].instruction) for i in clip])
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
            features=self._features_at(cache, self._offset_of_clip[clip] + now, gap) if self._features else (),
        )

    def _features_at(self, cache: Int64, row: Int64, gap: Int64) -> tuple[FeatureRows, ...]:
        """Stored features of now, later and, for triplets, latest, whose rows in their caches these are [B]."""
        files = [np.asarray(f.records) for f in self._features]
        looks = (row + i * gap for i in range(2 + self.triplets))
        return tuple(unpacked(_gather(files, cache, look), self._features[0].recipe) for look in looks)

    def _group(self, mixture: Mixture, sources: SourceWeights | None) -> None:
        """Runs grouped by body, or by source and body, so that "one of a group's pairs" is one integer."""
        width = len(self.bodies)
        group, lengths, count = self._body_of_clip[self._runs.clip], self._runs.lengths, width
        if sources is not None:
            group, count = self._cache_of_clip[self._runs.clip] * width + group, len(self.caches) * width
        self._by_group = np.argsort(group, kind="stable")
        self._before = np.concatenate([[0], np.cumsum(lengths[self._by_group])])
        edges = self._before[np.searchsorted(group[self._by_group], np.arange(count + 1))]
        self._pairs_of_group, self._first_of_group = np.diff(edges), edges[:-1]
        counts = self._pairs_of_group.reshape(-1, width)
        self.pairs_per_body: Int64 = counts.sum(0)
        if sources is None:
            self._weight_of_group = mixture_weights(mixture, self.bodies, self.pairs_per_body.tolist())
        else:
            shares = sources.shares(counts.sum(1).tolist())
            within = [mixture_weights(mixture, self.bodies, row.tolist()) for row in counts]
            self._weight_of_group = (shares[:, None] * np.stack(within)).ravel()
        self.weights: NDArray[np.float64] = self._weight_of_group.reshape(-1, width).sum(0)  # of each body

    def pairs_per_cache(self) -> tuple[int, ...]:
        """How many pairs each cache gives."""
        found = np.zeros(len(self.caches), np.int64)
        np.add.at(found, self._cache_of_clip[self._runs.clip], self._runs.lengths)
        return tuple(found.tolist())

    def _index(
        self,
        facts: Sequence[ClipFacts],
        keep: Sequence[Int64] | None,
        cuts: Sequence[Sequence[Int64]] | None,
        names: Sequence[str] | None,
    ) -> PairRuns:
        self._chosen: list[tuple[int, Int64, PairRuns]] = []
        parts: list[PairRuns] = []
        first_clip = 0
        for i, cache in enumerate(self.caches):
            which = np.arange(len(cache)) if keep is None else np.unique(np.asarray(keep[i], np.int64))
            if len(which):
                shots = None if cuts is None else chosen(cuts[i], which)
                with _named_source(None if names is None else names[i]):
                    runs = pair_runs(
                        facts[i] if keep is None else facts[i].chosen(which),
                        self._gaps[i],
                        lambda c, cache=cache, which=which: cache.clips[int(which[c])].name,  # type: ignore[misc]
                        reach=1 + self.triplets,
                        cuts=shots,
                    )
                here = first_clip + which
                self._gap_of_clip[here] = runs.gap_frames
                self._chosen.append((i, which, runs))
                parts.append(replace(runs, clip=here[runs.clip]))
            first_clip += len(cache)
        return joined(parts)

    def _thin_out(self, moving: Sequence[Float32], still_share: float) -> None:
        clip, now = self.places(np.arange(self.num_pairs))
        shares = _gather(list(moving), self._cache_of_clip[clip], self._pairs_before_clip[clip] + now)
        stays = thin_still(shares, self._body_of_clip[clip], still_share)
        if not stays.any():
            remedy = "Give a longer gap, or keep still pairs."
            raise InputError("moving", expected="a pair in which something moves", got="none", remedy=remedy)
        self.num_still_dropped = int((~stays).sum())
        self._runs = self._runs.kept(stays)


@contextmanager
def _named_source(name: str | None) -> Iterator[None]:
    """Errors inside name the source of a mixture beside the clip."""
    try:
        yield
    except InputError as error:
        if name is None:
            raise
        where = f"source {name!r}, {error.where}"
        raise InputError(where, expected=error.expected, got=error.got, remedy=error.remedy) from None


def _numbered(clips: ClipFacts, bodies: Sequence[str]) -> Int64:
    """The body of every clip as an index into `bodies`."""
    number = [bodies.index(body) if body in bodies else -1 for body in clips.bodies]
    found: Int64 = np.array(number, np.int64)[clips.body]
    return found


def _pairs_before(clips: ClipFacts, gap_s: Gap) -> Int64:
    """How many pairs of a cache lie before each of its clips; none of bodies without a gap, which nobody draws."""
    known = np.array([not isinstance(gap_s, Mapping) or body in gap_s for body in clips.bodies])[clips.body]
    counts = np.zeros(len(known), np.int64)
    some = np.flatnonzero(known)
    chosen = clips.chosen(some)
    counts[some] = np.maximum(0, chosen.num_frames - gaps_in_frames(chosen, gap_s))
    before: Int64 = np.cumsum(counts) - counts
    return before


def _gather(files: Sequence[NDArray[Any]], of_row: Int64, row: Int64) -> NDArray[Any]:
    """Rows of several arrays of one shape, each from the array that `of_row` names."""
    if len(files) == 1:
        return files[0][row]
    out = np.empty((len(row), *files[0].shape[1:]), files[0].dtype)
    for i in np.unique(of_row):
        here = np.flatnonzero(of_row == i)
        out[here] = files[i][row[here]]
    return out


def _check(
    caches: Sequence[FrameCache],
    gaps: Sequence[Gap],
    batch_size: int,
    keep: Sequence[Int64] | None,
    sources: SourceWeights | None,
) -> None:
    sizes = sorted({c.size_px for c in caches})
    if len(sizes) != 1:
        remedy = "Build all caches at one size."
        raise InputError("caches", expected="one picture size [px]", got=str(sizes), remedy=remedy)
    if batch_size < 1:
        raise InputError("batch_size", expected="at least 1", got=str(batch_size), remedy="Try 32.")
    weights = None if sources is None else sources.weights
    for name, values in (("gap_s", gaps), ("keep", keep), ("sources", weights)):
        if values is not None and len(values) != len(caches):
            expected, got = f"one entry per cache ({len(caches)})", str(len(values))
            raise InputError(name, expected=expected, got=got, remedy="Give them in the caches' order.")
    if keep is not None and not any(len(k) for k in keep):
        remedy = "With few clips a side of a split may be empty; hold out more, or change the seed."
        raise InputError("keep", expected="at least one clip", got="none", remedy=remedy)
    for cache, kept in zip(caches, keep or (), strict=False):
        if len(kept) and (np.min(kept) < 0 or np.max(kept) >= len(cache)):
            expected, got = f"clips below {len(cache)}", f"up to {np.max(kept)}"
            raise InputError("keep", expected=expected, got=got, remedy="Split the clips of this cache.")


def _check_features(caches: Sequence[FrameCache], features: Sequence[FeatureCache]) -> None:
    if len(features) != len(caches):
        expected, got = f"one entry per cache ({len(caches)})", str(len(features))
        raise InputError("features", expected=expected, got=got, remedy="Give them in the caches' order.")
    first = features[0].recipe
    for cache, found in zip(caches, features, strict=True):
        if not cache.kept:
            raise InputError(
                "features",
                expected="frames from a frame cache, whose features can be kept",
                got="frames that are decoded when asked for",
                remedy="Read from the cache (--read cache), or compute features in every step (--features compute).",
            )
        if found.recipe.frames_sha256 != frames_hash(cache) or len(found) != len(cache.frames):
            remedy = "Make the features of these frames."
            raise InputError(found.folder, expected="features of the loader's frames", got="of others", remedy=remedy)
        kind = (found.recipe.backbone_sha256, found.recipe.stored_as)
        if kind != (first.backbone_sha256, first.stored_as):
            expected = f"features of one backbone, stored as {first.stored_as}"
            remedy = "Make them all alike."
            raise InputError(found.folder, expected=expected, got=f"{kind[0][:12]}, {kind[1]}", remedy=remedy)


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
        facts = facts_of(cache.clips)
        num_pairs = int(np.maximum(0, facts.num_frames - gaps_in_frames(facts, gap_s)).sum())
        if len(shares) != num_pairs:
            expected, got = f"how much {num_pairs} pairs move", str(len(shares))
            raise InputError("moving", expected=expected, got=got, remedy="Measure this cache with this gap.")
    if not 0 <= still_share < 1:
        expected = "a share in [0, 1)"
        raise InputError("still_share", expected=expected, got=str(still_share), remedy="Try 0.1.")
