import numpy as np
import pytest

from cyclemimic.data.loader import PairLoader
from cyclemimic.data.mixture import mixture_weights
from cyclemimic.data.splits import recording_of, split_clips
from cyclemimic.errors import InputError
from cyclemimic.types import ClipInfo
from tests.unit.data_small import counted_cache


def rows(frames):
    return frames[:, 0, 0, 0].astype(int) + 256 * frames[:, 0, 0, 1].astype(int)


@pytest.fixture
def cache(tmp_path):
    return counted_cache(tmp_path / "one", [7, 3, 200, 11, 5], bodies=["a", "b", "a", "b", "c"])


def test_frames_bodies_and_clips_belong_together(cache):
    loader = PairLoader([cache], 0.8, batch_size=64)
    batch = loader.batch(3)
    assert loader.bodies == ("a", "b", "c") and len(batch) == 64
    for now, later, body, clip, frame in zip(
        rows(batch.now), rows(batch.later), batch.body, batch.clip, batch.frame, strict=True
    ):
        assert now == cache.offsets[clip] + frame and later == now + 4
        assert frame + 4 < cache.clips[clip].num_frames
        assert loader.bodies[body] == cache.clips[clip].embodiment == loader.clips[clip].embodiment
    assert [s.name for s in loader.skipped] == ["b/1"]


def test_a_batch_depends_on_seed_and_step_alone(cache):
    one, other = PairLoader([cache], 0.8, seed=1), PairLoader([cache], 0.8, seed=1)
    for step in (0, 1, 2):
        other.batch(step)
    again = one.batch(2), other.batch(2)
    for name in ("now", "later", "body", "clip", "frame"):
        np.testing.assert_array_equal(getattr(again[0], name), getattr(again[1], name))
    keys = {
        tuple(b.clip) + tuple(b.frame) for b in (one.batch(2), one.batch(3), PairLoader([cache], 0.8, seed=2).batch(2))
    }
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("mixture", "want"),
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("proportional", [(3 + 196) / 207, 7 / 207, 1 / 207]),
        ({"c": 3, "a": 1}, [0.25, 0, 0.75]),
    ],
)
def test_bodies_come_as_often_as_the_mixture_says(cache, mixture, want):
    loader = PairLoader([cache], 0.8, mixture, batch_size=500)
    seen = np.concatenate([loader.batch(step).body for step in range(20)])
    np.testing.assert_allclose(np.bincount(seen, minlength=3) / len(seen), want, atol=0.02)


def test_pairs_of_a_body_are_drawn_alike(tmp_path):
    loader = PairLoader([counted_cache(tmp_path, [6, 9])], 0.8, batch_size=2000)
    batch = loader.batch(0)
    counts = np.unique(batch.clip * 100 + batch.frame, return_counts=True)[1]
    assert len(counts) == 2 + 5 and counts.min() > 200 and counts.max() < 380


def test_all_pairs_come_once_in_order(cache):
    loader = PairLoader([cache], 0.8)
    batches = list(loader.all_pairs(64))
    assert [len(b) for b in batches[:-1]] == [64] * (len(batches) - 1)
    keys = [(int(c), int(f)) for b in batches for c, f in zip(b.clip, b.frame, strict=True)]
    assert keys == sorted(set(keys)) and len(keys) == loader.num_pairs == 3 + 196 + 7 + 1


@pytest.mark.parametrize("num_shards", [1, 2, 3, 9])
def test_shards_hold_whole_clips_and_together_everything(cache, num_shards):
    loader = PairLoader([cache], 0.8)
    shards = [
        [
            (int(c), int(f))
            for b in loader.all_pairs(10, shard=i, num_shards=num_shards)
            for c, f in zip(b.clip, b.frame, strict=True)
        ]
        for i in range(num_shards)
    ]
    whole = [(int(c), int(f)) for b in loader.all_pairs(50) for c, f in zip(b.clip, b.frame, strict=True)]
    assert [key for shard in shards for key in shard] == whole
    clips = [{c for c, _ in shard} for shard in shards]
    assert sum(len(c) for c in clips) == len(set().union(*clips))


def test_several_caches_each_with_its_gap(cache, tmp_path):
    other = counted_cache(tmp_path / "two", [9, 9], bodies=["d", "a"], fps=10.0)
    loader = PairLoader([cache, other], [0.8, 0.2], batch_size=256)
    assert loader.bodies == ("a", "b", "c", "d") and len(loader.clips) == 7
    batch = loader.batch(0)
    second = batch.clip >= 5
    assert second.any() and not second.all()
    np.testing.assert_array_equal(rows(batch.later) - rows(batch.now), np.where(second, 2, 4))
    np.testing.assert_array_equal(rows(batch.now)[second], (batch.clip[second] - 5) * 9 + batch.frame[second])


def test_only_kept_clips_are_drawn_and_bodies_keep_their_numbers(cache):
    loader = PairLoader([cache], 0.8, keep=[np.array([3, 4])])
    assert loader.bodies == ("a", "b", "c") and set(loader.batch(0).clip) == {3, 4}
    assert loader.weights.tolist() == [0, 0.5, 0.5]
    assert {int(c) for b in loader.all_pairs(5) for c in b.clip} == {3, 4}


def test_bad_settings_are_refused(cache, tmp_path):
    small = counted_cache(tmp_path / "small", [9], size_px=2)
    with pytest.raises(InputError, match="one picture size"):
        PairLoader([cache, small], 0.8)
    with pytest.raises(InputError, match="one entry per cache"):
        PairLoader([cache], [0.8, 0.2])
    with pytest.raises(InputError, match="batch_size"):
        PairLoader([cache], 0.8, batch_size=0)
    with pytest.raises(InputError, match="at least one clip"):
        PairLoader([cache], 0.8, keep=[np.array([], np.int64)])
    with pytest.raises(InputError, match="clips below 5"):
        PairLoader([cache], 0.8, keep=[np.array([5])])
    with pytest.raises(InputError, match="caches"):
        PairLoader([], 0.8)
    with pytest.raises(InputError, match="shard"):
        next(PairLoader([cache], 0.8).all_pairs(5, shard=2, num_shards=2))


def test_mixtures_that_make_no_sense_are_refused():
    bodies, pairs = ["franka", "widowx", "short"], [5, 5, 0]
    assert mixture_weights("uniform", bodies, pairs).tolist() == [0.5, 0.5, 0]
    with pytest.raises(InputError, match="Did you mean 'widowx'"):
        mixture_weights({"widow": 1}, bodies, pairs)
    with pytest.raises(InputError, match="Did you mean 'uniform'"):
        mixture_weights("uniforme", bodies, pairs)
    for bad in ({"franka": -1}, {"franka": float("nan")}, {"franka": 0}, {}, {"short": 1}):
        with pytest.raises(InputError):
            mixture_weights(bad, bodies, pairs)


def infos(names):
    return [ClipInfo(name=n, embodiment="arm", fps=5.0, num_frames=9) for n in names]


def sides(clips, **more):
    split = split_clips(clips, 0.3, 7, **more)
    return {clips[i].name: side for side in ("train", "val", "test") for i in getattr(split, side)}


def test_a_split_has_every_clip_once_in_about_the_asked_shares():
    clips = infos([f"arm/{i}.mp4" for i in range(2000)])
    split = split_clips(clips, 0.3, 7)
    assert sorted(np.concatenate([split.train, split.val, split.test]).tolist()) == list(range(2000))
    assert abs(len(split.val) - 300) < 60 and abs(len(split.test) - 300) < 60
    assert split_clips(clips, 0.3, 8).test.tolist() != split.test.tolist()


def test_new_clips_do_not_move_old_ones():
    old = infos([f"arm/{i}.mp4" for i in range(50)])
    before, after = sides(old), sides(infos(["a", "b", "c"]) + old[::-1])
    assert all(after[name] == side for name, side in before.items())


def test_parts_of_one_recording_stay_together():
    assert recording_of(infos(["x/film__part12.mp4"])[0]) == "x/film.mp4"
    assert recording_of(infos(["x/party2.mp4"])[0]) == "x/party2.mp4"
    parts = sides(infos([f"x/{i}__part{k}.mp4" for i in range(40) for k in range(4)]))
    for i in range(40):
        assert len({parts[f"x/{i}__part{k}.mp4"] for k in range(4)}) == 1
    assert len(set(parts.values())) == 3


def test_a_fraction_out_of_range_is_refused():
    with pytest.raises(InputError):
        split_clips(infos(["a"]), 1.0, 0)
    assert split_clips(infos(["a"]), 0.0, 0).train.tolist() == [0]
