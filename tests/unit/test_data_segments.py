import numpy as np
import pytest

from cyclemimic.data.cache import build_cache
from cyclemimic.data.cuts import cuts_of
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.seek import index_video
from cyclemimic.data.segments import SegmentLoader, read_mode
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.unkept import open_videos
from cyclemimic.data.video import read_video, write_video
from cyclemimic.errors import InputError
from cyclemimic.nn.words import WordHash
from cyclemimic.store.frame_cache import FrameCache
from tests.unit.data_small import moving_square, video_folder
from tests.unit.test_data_video import encode, images

SIZE = 11


def busy(num_frames, seed=0, height_px=34, width_px=46):
    """Frames that all differ, compressible enough to have key frames far apart."""
    frames = moving_square(num_frames, height_px, width_px, start=seed).copy()
    frames[:, :4, :, 1] = (np.arange(num_frames) * 7 + seed)[:, None, None] % 256
    return frames


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two bodies: mp4 with B-frames, mp4 of ours, webm, uneven times, and one clip at a rate of the sidecar's."""
    root = tmp_path_factory.mktemp("video")
    (root / "arm").mkdir()
    (root / "hand").mkdir()
    encode(root / "arm/b.mp4", busy(97), "libx264", "yuv420p", rate=5)
    write_video(root / "arm/ours.mp4", busy(53, 5), 5)
    encode(root / "hand/uneven.mp4", busy(31, 9), "libx264", "yuv420p", rate=10, times=[*range(20), *range(25, 36)])
    encode(root / "hand/vp9.webm", busy(41, 3), "libvpx-vp9", "yuv420p", rate=5)
    (root / "clips.jsonl").write_text('{"file": "arm/ours.mp4", "fps": 10, "instruction": "go left"}\n')
    return FolderSource(root)


@pytest.fixture(scope="module")
def cache(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    build_cache(source, folder, SIZE)
    return FrameCache.open(folder)


@pytest.fixture
def videos(source):
    return open_videos(source, SIZE)


def same(one, other):
    for name in ("now", "later", "latest", "body", "clip", "frame", "pair", "words"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_any_frame_is_read_as_the_cache_has_it(cache, videos):
    assert videos.clips == cache.clips and videos.offsets.tolist() == cache.offsets.tolist()
    assert videos.source_hash == cache.source_hash
    for seed in range(3):
        rows = np.random.default_rng(seed).integers(0, len(cache.frames), 40)
        np.testing.assert_array_equal(videos.frames[rows], cache.frames[rows])
    for i in range(len(cache)):
        np.testing.assert_array_equal(videos.clip_frames(i), cache.clip_frames(i))
    assert [c.tolist() for c in cuts_of(videos)] == [c.tolist() for c in cuts_of(cache)]


def test_read_directly_batches_are_those_of_the_cache(cache, videos):
    settings = {"gap_s": 0.6, "batch_size": 17, "seed": 3, "triplets": True, "words": WordHash()}
    for step in (0, 9, 2):
        same(PairLoader([videos], **settings).batch(step), PairLoader([cache], **settings).batch(step))


SEGMENTS = {"gap_s": 0.6, "batch_size": 13, "seed": 3, "run_pairs": 7, "runs_open": 9, "lanes": 4}


def test_a_batch_of_runs_holds_the_pairs_that_it_names(cache, videos):
    loader = SegmentLoader(videos, **SEGMENTS, triplets=True, words=WordHash())
    reference = PairLoader([cache], 0.6, triplets=True, words=WordHash())
    for step in range(12):
        batch = loader.batch(step)
        assert len(batch) == 13
        same(batch, reference.take(batch.pair))


def test_a_batch_depends_on_seed_and_step_alone_and_rows_are_its_rows(videos):
    unbroken = SegmentLoader(videos, **SEGMENTS)
    batches = [unbroken.batch(step) for step in range(30)]
    resumed = SegmentLoader(videos, **SEGMENTS)
    for step in (17, 18, 4, 29):
        same(resumed.batch(step), batches[step])
    ranks = [SegmentLoader(videos, **SEGMENTS) for _ in range(3)]
    for step in (0, 1, 19):
        parts = [rank.batch(step, slice(*cut)) for rank, cut in zip(ranks, ((0, 4), (4, 9), (9, 13)), strict=True)]
        np.testing.assert_array_equal(np.concatenate([p.now for p in parts]), batches[step].now)
        np.testing.assert_array_equal(np.concatenate([p.pair for p in parts]), batches[step].pair)
    other = SegmentLoader(videos, **{**SEGMENTS, "seed": 4})
    assert other.batch(0).pair.tolist() != batches[0].pair.tolist()


def test_a_process_decodes_for_its_own_lanes_alone(videos):
    loader = SegmentLoader(videos, **{**SEGMENTS, "batch_size": 12})
    loader.batch(0, slice(3, 6))
    assert [len(lane._open) > 0 for lane in loader._lanes] == [False, True, False, False]


def test_pairs_come_alike_and_bodies_as_the_mixture_says(videos):
    settings = {**SEGMENTS, "batch_size": 64}
    loader = SegmentLoader(videos, mixture={"arm": 1, "hand": 3}, **settings)
    batches = [loader.batch(step) for step in range(150)]
    body = np.concatenate([b.body for b in batches])
    assert np.bincount(body, minlength=2)[1] / len(body) == pytest.approx(0.75, abs=0.03)
    counts = np.bincount(np.concatenate([b.pair for b in batches]), minlength=loader.num_pairs)
    of_body = loader._body_of_clip[loader.places(np.arange(loader.num_pairs))[0]]
    for b in (0, 1):
        mine = counts[of_body == b]
        assert mine.min() > 0 and mine.std() / mine.mean() < 0.45


def test_a_batch_is_mixed_over_many_runs(videos):
    loader = SegmentLoader(videos, **{**SEGMENTS, "batch_size": 64, "runs_open": 24})
    run = np.searchsorted(loader.run_first, loader.batch(3).pair, side="right")
    assert len(np.unique(run)) > 12


def test_runs_hold_every_pair_once_and_end_at_key_frames_and_cuts(source, videos):
    cuts = [np.array([30]), *[np.empty(0, np.int64)] * 3]
    loader = SegmentLoader(videos, **{**SEGMENTS, "run_pairs": 10}, cuts=cuts, keep=np.array([0, 1, 3]))
    lengths = loader.run_pairs(np.arange(len(loader.run_first)))
    assert loader.run_first[0] == 0 and (np.diff(loader.run_first) == lengths[:-1]).all()
    assert lengths.sum() == loader.num_pairs
    (clip, now), (_, last) = loader.places(loader.run_first), loader.places(loader.run_first + lengths - 1)
    assert (last - now == lengths - 1).all() and 2 not in clip
    assert not ((now[clip == 0] < 30) & (last[clip == 0] + 3 >= 30)).any()
    ours = index_video(source.file_of("arm/ours.mp4"))
    assert set(now[clip == 1]) <= set(ours.keys.tolist()) and ours.key_spacing == 12


def test_the_mode_follows_size_and_key_frames(source, videos, tmp_path):
    assert read_mode(videos, free_bytes=1 << 40) == "cache"
    assert read_mode(videos, free_bytes=1 << 40, usual_bytes=1000) == "segment"
    assert read_mode(videos, free_bytes=1000) == "segment"
    (tmp_path / "a").mkdir()
    encode(tmp_path / "a/1.avi", busy(9), "mjpeg", "yuvj420p")
    assert read_mode(open_videos(FolderSource(tmp_path), SIZE), free_bytes=0) == "direct"


class Nameless:
    name = "nameless"

    def clips(self):
        return []

    def read(self, clip):
        raise AssertionError


def test_what_cannot_be_sought_in_is_refused_or_left_out(tmp_path, videos):
    with pytest.raises(InputError, match="names its clips' files"):
        open_videos(Nameless(), SIZE)
    images(tmp_path / "arm/pictures", busy(5))
    with pytest.raises(InputError, match="folder of pictures"):
        open_videos(FolderSource(tmp_path), SIZE)
    video_folder(tmp_path, {"arm/1.mp4": 9})
    (tmp_path / "arm/bad.mp4").write_bytes(b"no video")
    found = open_videos(FolderSource(tmp_path), SIZE)
    assert [c.name for c in found.clips] == ["arm/1.mp4"]
    assert sorted(s.name for s in found.skipped) == ["arm/bad.mp4", "arm/pictures"]
    with pytest.raises(InputError, match="at least 1"):
        SegmentLoader(videos, 0.6, lanes=0)
    with pytest.raises(InputError, match="no such file"):
        index_video(tmp_path / "none.mp4")


def test_a_file_that_changed_since_it_was_indexed_is_refused(tmp_path):
    video_folder(tmp_path, {"arm/1.mp4": 20})
    found = open_videos(FolderSource(tmp_path), SIZE)
    video_folder(tmp_path, {"arm/1.mp4": 9})
    assert len(read_video(tmp_path / "arm/1.mp4").frames) == 9
    with pytest.raises(InputError, match="changed since it was indexed"):
        found.frames[np.array([15])]
