"""Normalisation: where the scale comes from, and that nothing is lost on the way back."""

import json

import numpy as np
import pytest

from cyclemimic.embodiment.normalize import Normalizer
from cyclemimic.errors import InputError

ROWS = np.random.default_rng(3).normal([0.0, 5.0, -2.0], [1e-3, 2.0, 40.0], (101, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["quantile", "std"])
def test_inverse(kind):
    n = Normalizer.fit(ROWS, kind)
    np.testing.assert_allclose(n.denormalize(n.normalize(ROWS)), ROWS, rtol=1e-5, atol=1e-6)


def test_quantiles_become_plus_and_minus_one():
    values = Normalizer.fit(ROWS, "quantile").normalize(np.quantile(ROWS, [0.01, 0.99], axis=0))
    np.testing.assert_allclose(values, [[-1] * 3, [1] * 3], atol=1e-5)


def test_std_has_mean_zero_and_deviation_one():
    values = Normalizer.fit(ROWS, "std").normalize(ROWS)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-4)


def test_constant_axis_keeps_its_unit():
    for kind in ("quantile", "std"):
        n = Normalizer.fit(np.full((7, 2), 0.3, np.float32), kind)
        assert n.scale.tolist() == [1.0, 1.0]
        np.testing.assert_allclose(n.normalize(np.full((1, 2), 0.3)), 0, atol=1e-7)


def test_axis_that_moves_rarely_is_not_constant():
    gripper = np.zeros((1009, 1), np.float32)
    gripper[5] = 1.0
    assert Normalizer.fit(gripper, "quantile").scale.tolist() == [0.5]


def test_json_round_trip_is_exact():
    n = Normalizer.fit(ROWS)
    again = Normalizer.from_json(json.loads(json.dumps(n.to_json())))
    assert np.array_equal(n.offset, again.offset)
    assert np.array_equal(n.scale, again.scale)
    assert again.scale.dtype == np.float32


def test_errors():
    n = Normalizer.fit(ROWS)
    with pytest.raises(InputError, match="width 3"):
        n.normalize(np.zeros((2, 5)))
    with pytest.raises(InputError, match="finite"):
        Normalizer.fit(np.array([[np.nan]]))
    with pytest.raises(InputError, match="finite rows"):
        Normalizer.fit(np.zeros((0, 3)))
    with pytest.raises(InputError, match="quantile or std"):
        Normalizer.fit(ROWS, "minmax")
    with pytest.raises(InputError, match="scales > 0"):
        Normalizer(offset=np.zeros(2, np.float32), scale=np.zeros(2, np.float32))
