"""Several sources in one loader: shares, a gap for each, one order of draws at any number of processes."""

import numpy as np
import pytest

from cyclemimic.data.loader import PairLoader
from cyclemimic.data.mixture import SourceWeights
from cyclemimic.errors import InputError
from tests.unit.data_small import counted_cache


def weights(*values, per="source", names=("one", "two")):
    return SourceWeights(names=names, weights=values, per=per)


@pytest.fixture
def caches(tmp_path):
    return [
        counted_cache(tmp_path / "one", [11, 13], bodies=["a", "b"]),
        counted_cache(tmp_path / "two", [50, 70, 90], bodies=["a", "c", "c"]),
    ]


def shares_seen(loader, steps=40):
    cache = np.concatenate([loader._cache_of_clip[loader.batch(step).clip] for step in range(steps)])
    return np.bincount(cache, minlength=2) / len(cache)


def test_sources_come_as_their_weights_say_whatever_their_size(caches):
    loader = PairLoader(caches, 0.8, batch_size=200, sources=weights(3, 1))
    np.testing.assert_allclose(shares_seen(loader), [0.75, 0.25], atol=0.02)


def test_a_weight_per_pair_multiplies_the_size(caches):
    loader = PairLoader(caches, 0.8, batch_size=200, sources=weights(2, 1, per="pair"))
    one, two = 7 + 9, 46 + 66 + 86
    np.testing.assert_allclose(shares_seen(loader), [2 * one / (2 * one + two), two / (2 * one + two)], atol=0.02)


def test_within_a_source_each_of_its_bodies_comes_alike(caches):
    loader = PairLoader(caches, 0.8, batch_size=200, sources=weights(1, 3))
    body = np.concatenate([loader.batch(step).body for step in range(40)])
    # a: half of the first source's quarter, half of the second's three; body by body, not pair by pair.
    np.testing.assert_allclose(np.bincount(body) / len(body), [0.5, 0.125, 0.375], atol=0.02)
    np.testing.assert_allclose(loader.weights, [0.5, 0.125, 0.375])


def test_no_pair_lies_across_two_sources_and_each_has_its_own_gap(caches):
    loader = PairLoader(caches, [0.4, 1.2], batch_size=300, sources=weights(1, 1))
    batch = loader.batch(5)
    rows = [
        frames[:, 0, 0, 0].astype(int) + 256 * frames[:, 0, 0, 1].astype(int) for frames in (batch.now, batch.later)
    ]
    cache = loader._cache_of_clip[batch.clip]
    assert set(cache) == {0, 1}
    for number, gap in ((0, 2), (1, 6)):
        here = cache == number
        np.testing.assert_array_equal(rows[1][here] - rows[0][here], gap)
        lengths = np.array([clip.num_frames for clip in loader.clips])
        assert (batch.frame[here] + gap < lengths[batch.clip[here]]).all()
        offset = loader._offset_of_clip[batch.clip[here]]
        np.testing.assert_array_equal(rows[0][here], offset + batch.frame[here])


def test_draws_depend_on_seed_and_step_alone_at_any_number_of_processes(caches):
    settings = {"gap_s": 0.8, "batch_size": 12, "seed": 5, "sources": weights(1, 2)}
    whole = PairLoader(caches, **settings)
    whole.batch(3)
    reference = whole.batch(9)
    for world in (1, 2, 3, 4):
        ranks = [PairLoader(caches, **settings) for _ in range(world)]
        share = 12 // world
        parts = [rank.batch(9, slice(i * share, (i + 1) * share)) for i, rank in enumerate(ranks)]
        for name in ("now", "later", "body", "clip", "frame", "pair"):
            found = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(found, getattr(reference, name))
    assert PairLoader(caches, **{**settings, "seed": 6}).batch(9).pair.tolist() != reference.pair.tolist()


def test_without_weights_nothing_changes(caches):
    loader = PairLoader(caches, 0.8, batch_size=400)
    body = np.concatenate([loader.batch(step).body for step in range(20)])
    np.testing.assert_allclose(np.bincount(body) / len(body), [1 / 3] * 3, atol=0.02)
    assert loader.pairs_per_cache() == (16, 198)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), True, "2"])
def test_a_weight_is_a_finite_number_above_0(bad):
    with pytest.raises(InputError, match=r"source 'two', field weight.*above 0"):
        weights(1, bad)


def test_other_bad_weights(caches, tmp_path):
    with pytest.raises(InputError, match="'source' or 'pair'"):
        weights(1, 1, per="clip")
    with pytest.raises(InputError, match="one weight for each source"):
        weights(1, 1, 1)
    with pytest.raises(InputError, match=r"sources: expected one entry per cache \(2\), got 3"):
        PairLoader(caches, 0.8, sources=weights(1, 1, 1, names=("a", "b", "c")))


def test_a_source_without_pairs_is_named(caches, tmp_path):
    short = counted_cache(tmp_path / "short", [3])
    with pytest.raises(InputError, match=r"source 'two', gap_s.*clips longer"):
        PairLoader([caches[0], short], 0.8, sources=weights(1, 1))
    keep = [np.arange(2), np.empty(0, np.int64)]
    with pytest.raises(InputError, match="source 'two': expected pairs to train on, got none"):
        PairLoader(caches, 0.8, keep=keep, sources=weights(1, 1))


def test_a_body_that_nobody_draws_needs_no_gap(caches):
    keep = [np.array([0]), np.array([0])]
    loader = PairLoader(caches, {"a": 0.8}, keep=keep, sources=weights(1, 1))
    assert set(loader.batch(0).body) == {loader.bodies.index("a")}
