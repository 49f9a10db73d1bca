"""What a loader gives beside the two pictures, each only when asked for."""

from dataclasses import fields, replace

import numpy as np
import pytest

from cyclemimic.data.flow import build_flow
from cyclemimic.data.loader import PairLoader
from cyclemimic.data.splits import split_clips
from cyclemimic.data.true_actions import TrueActions
from cyclemimic.errors import InputError
from cyclemimic.nn.words import WordHash
from tests.unit.data_small import counted_cache
from tests.unit.test_data_loader import rows

LENGTHS, BODIES, H = [13, 7, 3, 29, 11], ["a", "b", "a", "b", "c"], 4
PLAIN = ("now", "later", "body", "clip", "frame", "pair")


@pytest.fixture
def cache(tmp_path):
    found = counted_cache(tmp_path / "one", LENGTHS, bodies=BODIES)
    return replace(found, clips=tuple(replace(c, instruction=f"go {c.embodiment}") for c in found.clips))


def places(cache, axes=2):
    rng = np.random.default_rng(0)
    return {c.name: rng.normal(size=(c.num_frames, axes)).cumsum(0) for c in cache.clips}


def same(one, other):
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def test_what_is_not_asked_for_is_absent_and_what_is_changes_no_draw(cache, tmp_path):
    plain = PairLoader([cache], 0.8, seed=3).batch(5)
    assert all(getattr(plain, f.name) in (None, ()) for f in fields(plain) if f.name not in PLAIN)
    more = {
        "flow": [build_flow(cache, 0.8, tmp_path / "flow")],
        "words": WordHash(),
        "actions": TrueActions(places=places(cache), share=1.0),
        "cuts": [[np.array([], np.int64)] * 5],
    }
    for chosen in [{k: v} for k, v in more.items()] + [more]:
        batch = PairLoader([cache], 0.8, seed=3, **chosen).batch(5)
        assert all(np.array_equal(getattr(plain, name), getattr(batch, name)) for name in PLAIN)


def test_triplets_end_within_their_clip(cache):
    loader = PairLoader([cache], 0.8, triplets=True, batch_size=400)
    batch = loader.batch(0)
    np.testing.assert_array_equal(rows(batch.latest) - rows(batch.later), H)
    np.testing.assert_array_equal(rows(batch.later) - rows(batch.now), H)
    ends = np.array(LENGTHS)[batch.clip]
    assert (batch.frame + 2 * H < ends).all() and (batch.frame + 2 * H == ends - 1).any()
    assert loader.num_pairs == sum(max(0, n - 2 * H) for n in LENGTHS)
    assert [s.name for s in loader.skipped] == ["b/1", "a/2"] and "needs 9" in loader.skipped[0].reason
    with pytest.raises(InputError, match=r"longer than 6\.0 s"):
        PairLoader([cache], 3.0, triplets=True)


def test_no_pair_and_no_triplet_crosses_a_cut(cache):
    cuts = [np.array([], np.int64), np.array([4]), np.array([], np.int64), np.array([9, 20]), np.array([1])]
    for triplets in (False, True):
        loader = PairLoader([cache], 0.8, triplets=triplets, cuts=[cuts])
        reach = H * (1 + triplets)
        want = [
            (clip, t)
            for clip, n in enumerate(LENGTHS)
            for t in range(n - reach)
            if not any(t < cut <= t + reach for cut in cuts[clip])
        ]
        found = [(int(c), int(t)) for b in loader.all_pairs(50) for c, t in zip(b.clip, b.frame, strict=True)]
        assert found == want
        assert "across a cut" in {s.name: s.reason for s in PairLoader([cache], 0.8, cuts=[cuts]).skipped}["b/1"]
    with pytest.raises(InputError, match="cuts of 5 clips"):
        PairLoader([cache], 0.8, cuts=[cuts[:4]])


def test_a_saved_batch_is_read_again_by_its_numbers(cache):
    loader = PairLoader([cache], 0.8, triplets=True, words=WordHash())
    batch = loader.batch(7)
    assert same(loader.take(batch.pair), batch)


def test_the_rows_of_two_processes_are_the_whole_batch(cache):
    loader = PairLoader([cache], 0.8, batch_size=7, triplets=True, words=WordHash())
    whole, halves = loader.batch(2), [loader.batch(2, slice(0, 3)), loader.batch(2, slice(3, None))]
    assert [len(h) for h in halves] == [3, 4]
    for f in fields(whole):
        if getattr(whole, f.name) is not None:
            joined = np.concatenate([getattr(h, f.name) for h in halves])
            np.testing.assert_array_equal(joined, getattr(whole, f.name))


def test_words_are_those_of_the_clip(cache):
    one = WordHash(length=5)
    silent = replace(
        cache, clips=tuple(replace(c, instruction=None) if c.embodiment == "c" else c for c in cache.clips)
    )
    batch = PairLoader([silent], 0.8, words=one, batch_size=64).batch(0)
    assert batch.words.shape == (64, 5)
    for clip, numbers in zip(batch.clip, batch.words, strict=True):
        np.testing.assert_array_equal(numbers, one(silent.clips[clip].instruction))
    assert (batch.words == 0).all(1).any() and not (batch.words == 0).all()


def test_flow_belongs_to_its_pair(cache, tmp_path):
    other = counted_cache(tmp_path / "two", [9, 6], bodies=["d", "a"])
    caches, flows = [cache, other], []
    for i, one in enumerate(caches):
        flow = build_flow(one, 0.8, tmp_path / f"flow{i}")
        # Numbers that name their row, instead of the flow of nothing.
        known = np.arange(len(flow), dtype=np.float16)[:, None, None, None] + 1000 * i
        flows.append(replace(flow, flow=np.broadcast_to(known, flow.flow.shape)))
    batch = PairLoader(caches, 0.8, flow=flows, batch_size=128, keep=[np.arange(1, 5), np.arange(2)]).batch(0)
    assert batch.flow.shape == (128, 2, 1, 1) and batch.flow.dtype == np.float16
    for clip, frame, flow in zip(batch.clip, batch.frame, batch.flow, strict=True):
        lengths = LENGTHS if clip < 5 else [9, 6]
        within = clip % 5
        assert flow[0, 0, 0] == sum(max(0, n - H) for n in lengths[:within]) + frame + 1000 * (clip >= 5)


def test_flow_of_other_frames_or_another_gap_is_refused(cache, tmp_path):
    flow = build_flow(cache, 0.8, tmp_path / "flow")
    with pytest.raises(InputError, match=r"a gap of 0\.8 s"):
        PairLoader([cache], 0.4, flow=[flow])
    with pytest.raises(InputError, match="other frames"):
        PairLoader([cache.subset(np.array([0, 3]))], 0.8, flow=[flow])
    with pytest.raises(InputError, match="one entry per cache"):
        PairLoader([cache], 0.8, flow=[])


def test_true_actions_are_differences_over_their_spread(cache):
    known = places(cache)
    loader = PairLoader([cache], 0.8, actions=TrueActions(places=known, share=1.0), batch_size=64)
    batch = loader.batch(1)
    assert batch.action_known.all() and batch.action.dtype == np.float32
    for action, clip, t in zip(batch.action, batch.clip, batch.frame, strict=True):
        place = known[cache.clips[clip].name]
        np.testing.assert_allclose(action * loader.action_std, place[t + H] - place[t], atol=1e-5)
    actions = np.concatenate([b.action for b in loader.all_pairs(50)])
    np.testing.assert_allclose(actions.std(0), 1, atol=1e-4)


def test_which_clips_are_labelled_depends_on_seed_and_name_alone(tmp_path):
    cache = counted_cache(tmp_path, [6] * 300)
    true = TrueActions(places=places(cache), share=0.2)
    loader = PairLoader([cache], 0.8, seed=4, actions=true)
    assert 35 < len(loader.labelled_clips) < 85
    half = np.arange(0, 300, 2)
    fewer = PairLoader([cache], 0.8, seed=4, actions=true, keep=[half])
    assert set(fewer.labelled_clips) == set(loader.labelled_clips) & {cache.clips[i].name for i in half}
    assert PairLoader([cache], 0.8, seed=5, actions=true).labelled_clips != loader.labelled_clips
    # Not the draw that holds clips out: else no labelled clip would be in training.
    held_out = set(split_clips(cache.clips, 0.2, 4).test) | set(split_clips(cache.clips, 0.2, 4).val)
    assert not {cache.clips[i].name for i in held_out} >= set(loader.labelled_clips)
    batch = loader.batch(0)
    assert batch.action_known.any() and not batch.action_known.all()
    assert (batch.action[~batch.action_known] == 0).all()
    np.testing.assert_array_equal(
        batch.action_known, [cache.clips[c].name in loader.labelled_clips for c in batch.clip]
    )


def test_an_axis_that_never_moves_stays_zero_and_far_places_lose_nothing(cache):
    known = {name: np.c_[place[:, :1] + 1e6, np.full(len(place), 5.0)] for name, place in places(cache).items()}
    loader = PairLoader([cache], 0.8, actions=TrueActions(places=known, share=1.0))
    batch = loader.batch(0)
    assert loader.action_std[1] == 1 and (batch.action[:, 1] == 0).all()
    for action, clip, t in zip(batch.action, batch.clip, batch.frame, strict=True):
        place = known[cache.clips[clip].name]
        np.testing.assert_allclose(action[0] * loader.action_std[0], place[t + H, 0] - place[t, 0], atol=1e-4)


def test_true_actions_that_do_not_fit_are_named(cache):
    known = places(cache)

    def refused(share=1.0, **changed):
        with pytest.raises(InputError) as error:
            PairLoader([cache], 0.8, actions=TrueActions(places=known | changed, share=share))
        return str(error.value)

    spoilt = known["b/3"].copy()
    spoilt[5, 1] = np.nan
    assert "'b/3'" in refused(**{"b/3": spoilt}) and "[5, 1]" in refused(**{"b/3": spoilt})
    assert "[29, 2]" in refused(**{"b/3": known["b/3"][:-1]})
    assert "[29, 2]" in refused(**{"b/3": known["b/3"][:, :1]})
    assert "larger share" in refused(share=1e-6)
    for share in (0, 1.1, float("nan")):
        assert "share" in refused(share=share)
    with pytest.raises(InputError, match="by the clips' names"):
        PairLoader([cache], 0.8, actions=TrueActions(places={"x": known["b/3"]}, share=1.0))


def test_a_name_in_two_sources_is_refused(tmp_path):
    caches = [counted_cache(tmp_path / name, [9]) for name in "ab"]
    true = TrueActions(places={"arm/0": np.zeros((9, 1))}, share=1.0)
    with pytest.raises(InputError, match="unique clip names"):
        PairLoader(caches, 0.8, actions=true)
