"""Batches of pairs from runs of frames that are decoded once, in order: for video that no cache holds. Engineering.

A frame between key frames costs all those before it, so runs are decoded from key frame on, and every frame is used as
now and as later. What makes a batch look random is that many runs are open at a time, and which one gives its next
pair is drawn.

A batch is made in `LANES` lanes, each with runs of its own, so that each process of several decodes for its own rows
alone. A lane goes through blocks: the block's runs are drawn, by the mixture, and so is the order in which they give
their pairs. All that is a pure function of (seed, step): a run that goes on at any step opens the runs of that block
where they stand then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.loader import PairArrays, PairLoader
from cyclemimic.data.mixture import Mixture, SourceWeights
from cyclemimic.data.true_actions import TrueActions
from cyclemimic.data.unkept import VideoFrames
from cyclemimic.errors import InputError
from cyclemimic.nn.words import WordHash
from cyclemimic.randomness import rng_for
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Gap, Int64, UInt8

RUN_PAIRS = 64  # about; runs end at key frames
RUNS_OPEN = 64  # over all lanes: what a batch is mixed over
LANES = 8
LOOKED_AT = 512  # files, to find how far key frames lie apart
ReadMode = Literal["cache", "segment", "direct"]


def read_mode(videos: FrameCache, free_bytes: int, usual_bytes: int = 64 << 30) -> ReadMode:
    """How video is best read: from a cache if it is small enough, else by how far its key frames lie apart.

    Args:
        videos: what `open_videos` gave.
        free_bytes: of the disk that would hold the cache.
        usual_bytes: a cache larger than this is none.
    """
    cache_bytes = len(videos.frames) * videos.recipe.frame_bytes
    if cache_bytes <= min(usual_bytes, free_bytes // 2):
        return "cache"
    frames = cast(VideoFrames, videos.frames)
    some = np.linspace(0, len(videos) - 1, min(len(videos), LOOKED_AT)).astype(np.int64).tolist()
    spacing = float(np.median([frames.indices[i].key_spacing for i in some]))
    return "direct" if spacing <= 2 else "segment"


@dataclass(frozen=True, kw_only=True)
class _Block:
    """What one lane gives from `start` on: runs [m], and which of them gives each next pair."""

    runs: Int64
    order: Int64
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.order)


class SegmentLoader(PairLoader):
    """The pairs of a `PairLoader`, all as often, but drawn run by run instead of one by one.

    Bodies come as often as the mixture says, over many runs. Neighbouring batches hold pairs of the same runs: that is
    the price. Memory holds `runs_open` decoders and a gap of frames for each.

    Args:
        videos: what `open_videos` gave; no subset, see `keep`. Or several, and then `keep` and `cuts` for each.
        gap_s: as `PairLoader`.
        mixture: as `PairLoader`.
        seed: with the step, decides every batch.
        batch_size: B.
        sources: as `PairLoader`.
        keep: indices of the clips to draw from.
        triplets: as `PairLoader`.
        words: as `PairLoader`.
        actions: as `PairLoader`.
        cuts: per clip the frames with which a new shot begins.
        run_pairs: about how many pairs a run gives.
        runs_open: over how many runs a batch is mixed.
        lanes: parts of a batch that are decoded apart; the order depends on them, and at most so many processes share
            the decoding.
    """

    def __init__(
        self,
        videos: FrameCache | Sequence[FrameCache],
        gap_s: Gap,
        mixture: Mixture = "uniform",
        seed: int = 0,
        batch_size: int = 32,
        *,
        sources: SourceWeights | None = None,
        keep: Int64 | Sequence[Int64] | None = None,
        triplets: bool = False,
        words: WordHash | None = None,
        actions: TrueActions | None = None,
        cuts: Sequence[Int64] | Sequence[Sequence[Int64]] | None = None,
        run_pairs: int = RUN_PAIRS,
        runs_open: int = RUNS_OPEN,
        lanes: int = LANES,
    ) -> None:
        if min(run_pairs, runs_open, lanes) < 1:
            got = f"run_pairs {run_pairs}, runs_open {runs_open}, lanes {lanes}"
            raise InputError("SegmentLoader", expected="numbers of at least 1", got=got, remedy="Try 64, 64 and 8.")
        one = isinstance(videos, FrameCache)
        super().__init__(
            [videos] if isinstance(videos, FrameCache) else videos,
            gap_s,
            mixture,
            seed,
            batch_size,
            sources=sources,
            keep=cast(Sequence[Int64] | None, [keep] if one and keep is not None else keep),
            triplets=triplets,
            words=words,
            actions=actions,
            cuts=cast(Sequence[Sequence[Int64]] | None, [cuts] if one and cuts is not None else cuts),
        )
        self._videos = [cast(VideoFrames, cache.frames) for cache in self.caches]
        counts = [len(cache) for cache in self.caches]
        self._first_clip = np.cumsum([0, *counts])[:-1]  # of each cache
        self._run_edges = np.append(self._cut_runs(run_pairs), self.num_pairs)
        self.run_first = self._run_edges[:-1]  # [runs]: number of the first pair
        clip = self.places(self.run_first)[0]
        group = self._body_of_clip[clip]
        if sources is not None:
            group = self._cache_of_clip[clip] * len(self.bodies) + group
        groups = range(len(self._weight_of_group))
        self._runs_of_group = [np.flatnonzero(group == g).astype(np.int32) for g in groups]
        # By pairs, not by runs: a body whose runs are short must be drawn more often.
        lengths = [self.run_pairs(runs).mean() if len(runs) else 1.0 for runs in self._runs_of_group]
        share = self._weight_of_group / np.array(lengths)
        self._run_weights: NDArray[np.float64] = share / share.sum()
        self.lanes = min(lanes, batch_size)
        edges = [-(-lane * batch_size // self.lanes) for lane in range(self.lanes + 1)]
        per_lane = max(1, runs_open // self.lanes)
        self._lanes = [_Lane(self, number, edges[number], edges[number + 1], per_lane) for number in range(self.lanes)]

    def batch(self, step: int, rows: slice = slice(None)) -> PairArrays:
        """The batch of a step: the same for the same (seed, step), whatever was drawn before.

        Steps in ascending order are fast; any other one costs the decoding of about `runs_open` runs up to it. With
        `rows` only the lanes of these rows are decoded.
        """
        first, last, _ = rows.indices(self.batch_size)
        pairs = np.empty(last - first, np.int64)
        pictures = np.empty((2 + self.triplets, last - first, *self._videos[0].shape[1:]), np.uint8)
        for lane in self._lanes:
            if lane.first < last and first < lane.last:
                count = lane.last - lane.first
                for row, (pair, found) in enumerate(lane.give(step * count, count), start=lane.first):
                    if first <= row < last:
                        # At once, while what was just decoded lies in the processor's cache.
                        pairs[row - first] = pair
                        for look, picture in enumerate(found):
                            pictures[look, row - first] = picture
        return self._described(pairs, list(pictures))

    def block(self, lane: int, number: int, start: int, count: int) -> _Block:
        """The runs of one lane's block and their order: a pure function of (seed, lane, number)."""
        rng = rng_for(self.seed, number, f"segments/lane {lane}")
        groups = rng.choice(len(self._run_weights), count, p=self._run_weights)
        places = rng.random(count)
        mine = [self._runs_of_group[g] for g in groups]
        runs = np.array([runs[int(u * len(runs))] for runs, u in zip(mine, places, strict=True)], np.int64)
        order = rng.permutation(np.repeat(np.arange(count), self.run_pairs(runs)))
        return _Block(runs=runs, order=order, start=start)

    def run_pairs(self, runs: NDArray[np.integer]) -> Int64:
        """How many pairs these runs have [n]."""
        found: Int64 = self._run_edges[runs + 1] - self._run_edges[runs]
        return found

    def open_run(self, run: int, done: int) -> _Run:
        """A run that has given `done` pairs already."""
        pair = int(self.run_first[run]) + done
        clip, now = (int(n[0]) for n in self.places(np.array([pair])))
        which = int(self._cache_of_clip[clip])
        own = clip - int(self._first_clip[which])
        return _Run(self._videos[which], own, pair, now, int(self._gap_of_clip[clip]), 1 + self.triplets)

    def _cut_runs(self, run_pairs: int) -> Int64:
        """Pairs that follow one another in a clip, cut near every `run_pairs`-th, at a key frame if there is one.

        The number of each piece's first pair [runs].
        """
        cache = self._cache_of_clip[self._runs.clip]
        found = np.concatenate(
            [self._cut_cache(i, np.flatnonzero(cache == i), run_pairs) for i in range(len(self.caches))]
        )
        found.sort()
        return found

    def _cut_cache(self, which: int, runs: Int64, run_pairs: int) -> Int64:
        """`_cut_runs` of the loader's runs of one cache. All clips are cut at once, one piece of each after another."""
        video, clip = self._videos[which], self._runs.clip[runs] - self._first_clip[which]
        keys, frames = video.key_places(), video.offsets
        at, stop = self._runs.start[:-1][runs], self._runs.start[1:][runs]
        # What a pair's number lacks to the place of its earlier frame, as key frames are told.
        lacks = frames[clip] + clip + self._runs.now[runs] - at
        end = np.append(frames, len(video))[clip + 1] + clip + 1
        first = [np.zeros(0, np.int64)]
        while len(at):
            first.append(at)
            wanted = at + run_pairs + lacks
            # The key frames on both sides of where a piece should end; beyond this stretch nobody looks.
            nth = np.searchsorted(keys, np.minimum(wanted, end))
            lower, upper = keys[np.maximum(nth - 1, 0)], keys[np.minimum(nth, len(keys) - 1)]
            has_lower = (nth > 0) & (lower > at + run_pairs // 2 + lacks)
            has_upper = (nth < len(keys)) & (upper < end) & (upper <= at + 4 * run_pairs + lacks)
            down = has_lower & (~has_upper | (wanted - lower <= upper - wanted))
            at = np.where(down, lower, np.where(has_upper, upper, wanted)) - lacks
            goes_on = stop - at >= max(1, run_pairs // 4)  # a short rest joins the piece before
            at, stop, lacks, end = (a[goes_on] for a in (at, stop, lacks, end))
        return np.concatenate(first)


class _Lane:
    """One part of every batch: rows `first` to `last`. Gives its samples in order; any place may be asked for."""

    def __init__(self, loader: SegmentLoader, number: int, first: int, last: int, runs: int) -> None:
        self.first, self.last = first, last
        self._loader, self._number, self._count = loader, number, runs
        self._starts = [0]  # where each block begins, as far as is known
        self._open: dict[int, _Run] = {}
        self._block: _Block | None = None
        self._at = -1  # the sample that comes next

    def give(self, start: int, count: int) -> Iterator[tuple[int, tuple[UInt8, ...]]]:
        """Samples `start` to `start + count` of the lane: pair numbers and pictures."""
        if start != self._at:
            self._go_to(start)
        for _ in range(count):
            assert self._block is not None
            if self._at == self._block.stop:
                self._go_to(self._at)
            i = int(self._block.order[self._at - self._block.start])
            if i not in self._open:
                self._open[i] = self._loader.open_run(int(self._block.runs[i]), self._done(i))
            self._at += 1
            yield self._open[i].give()

    def _done(self, i: int) -> int:
        """How many pairs run `i` of the block has given before the next sample."""
        assert self._block is not None
        return int((self._block.order[: self._at - self._block.start] == i).sum())

    def _go_to(self, sample: int) -> None:
        for run in self._open.values():
            run.close()
        self._open = {}
        while self._starts[-1] <= sample:  # lengths differ, so blocks are counted up; they are drawn, not decoded
            number = len(self._starts) - 1
            self._starts.append(self._loader.block(self._number, number, self._starts[-1], self._count).stop)
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        self._block = self._loader.block(self._number, number, self._starts[number], self._count)
        self._at = sample


class _Run:
    """Pairs of one clip, one after another; every frame is decoded once."""

    def __init__(self, video: VideoFrames, clip: int, pair: int, now: int, gap: int, reach: int) -> None:
        self._frames, self._clip, self._pair, self._gap, self._reach = video, clip, pair, gap, reach
        self._video = video.borrow(clip)
        self._next, self._window = now, deque[UInt8](maxlen=reach * gap + 1)

    def give(self) -> tuple[int, tuple[UInt8, ...]]:
        """The next pair's number, and its pictures: now, later, latest."""
        missing = max(1, self._reach * self._gap + 1 - len(self._window))
        for _ in range(missing):
            self._window.append(self._frames.square(self._video.picture(self._next)))
            self._next += 1
        pair, self._pair = self._pair, self._pair + 1
        return pair, tuple(self._window[i * self._gap] for i in range(self._reach + 1))

    def close(self) -> None:
        """Let others use the decoder."""
        self._frames.give_back(self._clip, self._video)
