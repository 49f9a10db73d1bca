"""The order of samples is part of a run: arrays of pairs and runs give what a list of every pair gave before."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.data.filed import IndexedVideos
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.pairs import gap_in_frames
from cyclemimic.data.seek import VideoIndex
from cyclemimic.data.segments import SegmentLoader
from cyclemimic.data.splits import split_clips
from cyclemimic.data.unkept import VideoFrames, open_videos
from cyclemimic.randomness import rng_for
from cyclemimic.store.clips import names_of
from cyclemimic.store.index import EpisodeIndex, EpisodeRow, build_index
from cyclemimic.types import ClipInfo
from tests.unit.data_small import counted_cache

BODIES = ["c", "a", "a", "b", "c", "a", "b"]
LENGTHS = [7, 200, 3, 11, 5, 1, 64]


class AllPairs:
    """Every pair of some clips in a list, and batches drawn from it as the loader did when it had such a list."""

    def __init__(self, clips, gap_s, seed, batch_size, reach=1, keep=None, cuts=None, stays=None):
        self.seed, self.batch_size = seed, batch_size
        self.bodies = sorted({c.embodiment for c in clips})
        kept = range(len(clips)) if keep is None else sorted(keep)
        found = []
        for i in kept:
            gap = reach * gap_in_frames(gap_s, clips[i].fps)
            edges = [] if cuts is None else cuts[i].tolist()
            for t in range(max(0, clips[i].num_frames - gap)):
                if not any(t < cut <= t + gap for cut in edges):
                    found.append((i, t))
        self.clip, self.now = np.array(found, np.int64).T
        if stays is not None:
            self.clip, self.now = self.clip[stays], self.now[stays]
        body = np.array([self.bodies.index(c.embodiment) for c in clips])[self.clip]
        self.by_body, self.per_body = np.argsort(body, kind="stable"), np.bincount(body, minlength=len(self.bodies))
        self.weights = (self.per_body > 0) / (self.per_body > 0).sum()

    def numbers(self, step):
        rng = rng_for(self.seed, step, "pairs")
        body = rng.choice(len(self.bodies), self.batch_size, p=self.weights)
        within = rng.integers(0, self.per_body[body])
        return self.by_body[(np.cumsum(self.per_body) - self.per_body)[body] + within]


def cuts_for(clips, seed=1):
    rng = np.random.default_rng(seed)
    return [np.unique(rng.integers(1, c.num_frames, min(3, c.num_frames // 9))) for c in clips]


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize("keep", [None, [6, 1, 3]])
@pytest.mark.parametrize("cut", [False, True])
def test_batches_hold_the_pairs_that_a_list_of_every_pair_gave(tmp_path, reach, keep, cut):
    cache = counted_cache(tmp_path, LENGTHS, BODIES)
    cuts = cuts_for(cache.clips) if cut else None
    reference = AllPairs(cache.clips, 0.4, 5, 17, reach, keep, cuts)
    settings = {"keep": None if keep is None else [np.array(keep)], "cuts": None if cuts is None else [cuts]}
    loader = PairLoader([cache], 0.4, seed=5, batch_size=17, triplets=reach == 2, **settings)
    assert loader.num_pairs == len(reference.clip)
    clip, now = loader.places(np.arange(loader.num_pairs))
    assert clip.tolist() == reference.clip.tolist() and now.tolist() == reference.now.tolist()
    for step in (0, 1, 77):
        batch, numbers = loader.batch(step), reference.numbers(step)
        assert batch.pair.tolist() == numbers.tolist()
        assert batch.clip.tolist() == reference.clip[numbers].tolist()
        assert batch.frame.tolist() == reference.now[numbers].tolist()
        for world in (2, 3):  # each of several processes reads rows of its own
            edges = [17 * rank // world for rank in range(world + 1)]
            parts = [loader.batch(step, slice(*edge)).pair for edge in itertools.pairwise(edges)]
            assert np.concatenate(parts).tolist() == numbers.tolist()


def test_several_caches_follow_one_another_and_thinned_pairs_keep_their_order(tmp_path):
    caches = [counted_cache(tmp_path / "1", LENGTHS, BODIES), counted_cache(tmp_path / "2", [30, 9], ["b", "z"])]
    clips = [info for cache in caches for info in cache.clips]
    shares = [np.random.default_rng(i).random(sum(max(0, c.num_frames - 2) for c in cache.clips)).astype(np.float32)
              * np.float32(0.004) for i, cache in enumerate(caches)]  # fmt: skip
    loader = PairLoader(caches, 0.4, seed=2, batch_size=50, moving=shares, still_share=0.0)
    reference = AllPairs(clips, 0.4, 2, 50, stays=np.concatenate(shares) >= 0.002)
    for step in range(3):
        assert loader.batch(step).pair.tolist() == reference.numbers(step).tolist()
        assert loader.batch(step).frame.tolist() == reference.now[reference.numbers(step)].tolist()


def run_starts(pairs, videos, run_pairs):
    """Where runs begin, found clip by clip."""
    breaks = np.flatnonzero((np.diff(pairs.clip) != 0) | (np.diff(pairs.now) != 1)) + 1
    first = []
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(pairs.clip)], strict=True):
        video = videos[int(pairs.clip[start])]
        keys = np.searchsorted(video.shown, video.keys) - int(pairs.now[start]) + start
        while start < stop:
            first.append(start)
            wanted = start + run_pairs
            near = keys[(keys > start + run_pairs // 2) & (keys <= start + 4 * run_pairs)]
            start = int(near[np.argmin(np.abs(near - wanted))]) if len(near) else wanted
            if stop - start < run_pairs // 4:
                start = stop
    return first


def blocks(first, body_of_run, weights, seed, lane, count, num_pairs):
    """The first block of a lane, drawn as it was from lists of runs."""
    lengths = np.diff(np.append(first, num_pairs))
    of_body = [np.flatnonzero(body_of_run == b) for b in range(len(weights))]
    share = weights / np.array([lengths[runs].mean() if len(runs) else 1.0 for runs in of_body])
    rng = rng_for(seed, 0, f"segments/lane {lane}")
    bodies = rng.choice(len(weights), count, p=share / share.sum())
    mine = [of_body[b] for b in bodies]
    runs = [runs[int(u * len(runs))] for runs, u in zip(mine, rng.random(count), strict=True)]
    return runs, rng.permutation(np.repeat(np.arange(count), lengths[runs]))


class Files:
    """A source of 41 files of two bodies, some with uneven times; an index of it needs no file."""

    name = "files"

    def __init__(self):
        rng = np.random.default_rng(0)
        self.rows = []
        for i in range(41):
            count = int(rng.integers(2, 300))
            keys = np.unique(np.r_[0, rng.integers(0, count, rng.integers(0, 12))])
            shown = np.sort(rng.integers(0, count, count + 9)) if i % 5 == 0 else ()
            uneven = {"pts": range(0, 3 * count, 3), "shown": [int(n) for n in shown]} if len(shown) else {}
            self.rows.append(
                EpisodeRow(
                    uri=f"{i}.mp4",
                    embodiment="ab"[i % 3 == 0],
                    fps=5.0,
                    frames=len(shown) or (count if i % 7 else 0),
                    key_frames=keys.tolist(),
                    step_pts=0 if len(shown) else 3,
                    instruction=f"do {i % 4}",
                    fault="bad" if not len(shown) and i % 7 == 0 else None,
                    **uneven,
                )
            )

    def names(self):
        return [row.uri for row in self.rows]

    def describe(self, name):
        row = self.row(name)
        return ClipInfo(name=name, embodiment=row.embodiment, fps=row.fps, num_frames=row.frames)

    def row(self, name):
        return self.rows[int(name.split(".")[0])]

    def file_of(self, name):
        return Path(name)

    def rate_of(self, name):
        return None

    def clips(self):
        return [self.describe(name) for name in self.names()]

    def read(self, clip):
        raise AssertionError

    def fingerprint(self):
        return "f" * 64


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """The files through an index of several row groups."""
    monkeypatch.setattr("cyclemimic.store.episode_rows.PART_ROWS", 5)
    monkeypatch.setattr("cyclemimic.store.episode_rows.GROUP_ROWS", 8)
    source = Files()
    build_index(tmp_path / "index.parquet", source.names(), source.row, lambda name: 1)
    return open_videos(source, 8, index=EpisodeIndex.open(tmp_path / "index.parquet"))


def test_clips_are_made_when_asked_for_and_are_those_of_the_index(videos):
    wanted = [row for row in Files().rows if row.frames >= 2]
    made = [ClipInfo(name=r.uri, embodiment=r.embodiment, fps=r.fps, num_frames=r.frames, instruction=r.instruction)
            for r in wanted]  # fmt: skip
    assert videos.embodiments == ("a", "b")
    assert list(videos.clips) == made == [videos.clips[i] for i in range(len(videos))]
    assert videos.clips[3:5] == tuple(made[3:5]) and len(videos.clips) == len(made)
    assert list(names_of(videos.clips)) == [clip.name for clip in made] == list(names_of(made))
    for one, other in zip(*(vars(split_clips(clips, 0.5, 3)).values() for clips in (videos.clips, made)), strict=True):
        assert one.tolist() == other.tolist()
    few = videos.subset(np.array([30, 2, 7]))
    assert list(few.clips) == [made[i] for i in (30, 2, 7)] and list(names_of(few.clips))[1] == made[2].name
    assert few.embodiments == ("a",)
    assert list(few.sha256) == [videos.sha256[i] for i in (30, 2, 7)]
    assert [s.name for s in videos.skipped] == [row.uri for row in Files().rows if row.frames < 2]


@pytest.mark.parametrize("run_pairs", [1, 3, 10, 64])
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("cut", [True, False])
def test_runs_and_their_order_are_those_found_clip_by_clip(videos, run_pairs, lazy, cut):
    frames = videos.frames
    assert isinstance(frames, VideoFrames) and isinstance(frames.indices, IndexedVideos)
    every = [frames.indices[i] for i in range(len(frames.indices))]
    assert all(isinstance(v, VideoIndex) for v in every)
    if not lazy:
        frames.indices = tuple(every)
    clips = list(videos.clips)
    cuts, keep = (cuts_for(clips) if cut else None), np.arange(0, len(clips), 2) if cut else None
    loader = SegmentLoader(videos, 0.6, seed=9, batch_size=12, run_pairs=run_pairs, cuts=cuts, keep=keep)
    reference = AllPairs(clips, 0.6, 9, 12, keep=keep, cuts=cuts)
    first = run_starts(reference, every, run_pairs)
    assert loader.run_first.tolist() == first
    body = np.array([loader.bodies.index(clips[c].embodiment) for c in reference.clip[first]])
    for lane in (0, 5):
        block = loader.block(lane, 0, 0, 6)
        runs, order = blocks(first, body, loader.weights, 9, lane, 6, loader.num_pairs)
        assert block.runs.tolist() == [int(r) for r in runs] and block.order.tolist() == order.tolist()
