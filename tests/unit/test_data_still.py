import numpy as np
import pytest

from cyclemimic.data.loader import PairLoader
from cyclemimic.data.still import LEAST_MOVING, moving_share, moving_shares, thin_still
from cyclemimic.errors import InputError
from tests.unit.data_small import counted_cache, moving_square

H = 4
LENGTHS, BODIES = [13, 30, 3, 40], ["a", "b", "a", "b"]


@pytest.fixture
def cache(tmp_path):
    return counted_cache(tmp_path, LENGTHS, bodies=BODIES)


def half_still(cache):
    """How much pairs move, made up: of every clip the first half of the pairs rests."""
    counts = [max(0, n - H) for n in LENGTHS]
    return np.concatenate([np.where(np.arange(n) < n // 2, 0.0, 0.5) for n in counts]).astype(np.float32)


def test_the_share_that_moves():
    frames = moving_square(4)
    now = np.stack([frames[0], frames[0], frames[0]])
    noise = np.random.default_rng(0).integers(-5, 6, frames[0].shape)
    later = np.stack([frames[0], frames[3], (frames[0] + noise).astype(np.uint8)])
    # 3 px in front and 3 px behind a square of 6 rows.
    np.testing.assert_allclose(moving_share(now, later), [0, 36 / (22 * 26), 0], atol=1e-7)


def test_every_pair_of_a_cache_is_measured_in_order(cache):
    shares = moving_shares(cache, 0.8)
    loader = PairLoader([cache], 0.8)
    want = np.concatenate([moving_share(b.now, b.later) for b in loader.all_pairs(7)])
    assert len(shares) == 9 + 26 + 36
    np.testing.assert_array_equal(shares, want)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_at_most_a_share_of_each_bodys_pairs_is_still(share):
    rng = np.random.default_rng(0)
    shares, body = rng.choice([0, 0.0019, 0.0021, 0.3], 900).astype(np.float32), rng.integers(0, 3, 900)
    stays = thin_still(shares, body, share)
    assert stays[shares >= LEAST_MOVING].all()
    for one in range(3):
        still = (shares < LEAST_MOVING)[stays & (body == one)]
        assert still.mean() <= share and still.mean() > share - 0.01
    if share:
        kept = np.flatnonzero(stays & (shares < LEAST_MOVING))
        assert (np.histogram(kept, 3, (0, 900))[0] > len(kept) / 5).all()  # spread out


def test_few_still_pairs_all_stay():
    assert thin_still(np.array([0, 0.5, 0.5, 0.5], np.float32), np.zeros(4, np.int64), 0.3).all()
    assert not thin_still(np.zeros(3, np.float32), np.zeros(3, np.int64), 0.5).any()


def test_the_loader_draws_what_moves_and_says_what_it_left_out(cache):
    plain, shares = PairLoader([cache], 0.8), half_still(cache)
    loader = PairLoader([cache], 0.8, moving=[shares], still_share=0.0, batch_size=200)
    assert loader.num_pairs == int((shares > 0).sum()) and loader.num_still_dropped == int((shares == 0).sum())
    moves = {(int(c), int(f)) for c, f in zip(*plain.places(np.flatnonzero(shares > 0)), strict=True)}
    batch = loader.batch(0)
    assert {(int(c), int(f)) for c, f in zip(batch.clip, batch.frame, strict=True)} <= moves
    assert loader.pairs_per_body.sum() == loader.num_pairs
    # With triplets and a part of the clips the rows still belong to their pairs.
    loader = PairLoader([cache], 0.8, moving=[shares], still_share=0.0, triplets=True, keep=[np.array([1, 3])])
    found = {(int(c), int(f)) for b in loader.all_pairs(50) for c, f in zip(b.clip, b.frame, strict=True)}
    assert found == {(c, f) for c, f in moves if c in (1, 3) and f + 2 * H < LENGTHS[c]}


def test_what_does_not_fit_is_refused(cache):
    shares = half_still(cache)
    with pytest.raises(InputError, match="71 pairs"):
        PairLoader([cache], 0.8, moving=[shares[1:]])
    with pytest.raises(InputError, match="still_share"):
        PairLoader([cache], 0.8, moving=[shares], still_share=1.0)
    with pytest.raises(InputError, match="in which something moves"):
        PairLoader([cache], 0.8, moving=[0 * shares])
    with pytest.raises(InputError, match="one entry per cache"):
        PairLoader([cache], 0.8, moving=[])
