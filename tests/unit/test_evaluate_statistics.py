"""Intervals over seeds hold what they promise; wins count seeds; the sign test is exact."""

import math

import numpy as np
import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.evaluate.statistics import mean_row, paired, t_quantile


def test_t_quantiles_leave_two_and_a_half_percent_above():
    """By adding up Student's density."""
    for freedom in (1, 2, 4, 7, 30, 31, 200):
        x = torch.linspace(0, t_quantile(freedom), 200_001, dtype=torch.float64)
        density = torch.exp(torch.distributions.StudentT(float(freedom)).log_prob(x))
        assert float(torch.trapezoid(density, x)) == pytest.approx(0.475, abs=1e-4), freedom


@pytest.mark.parametrize("n", [2, 5])
def test_intervals_cover_the_truth_95_times_in_100(n):
    rows = [mean_row(list(values)) for values in np.random.default_rng(0).normal(3, 2, (4000, n))]
    assert np.mean([row.low <= 3 <= row.high for row in rows]) == pytest.approx(0.95, abs=0.015)


def test_a_mean_by_hand():
    row = mean_row([1.0, math.nan, 2.0, 3.0])
    assert (row.mean, row.n) == (2.0, 3)
    assert (row.high - row.mean) == pytest.approx(4.303 / math.sqrt(3)) == pytest.approx(row.mean - row.low)


def test_too_few_seeds_have_no_interval():
    assert mean_row([]).n == 0 and math.isnan(mean_row([]).mean)
    assert math.isnan(mean_row([1.0]).low) and str(mean_row([1.0])) == "1.000"


def test_pairs_take_out_what_seeds_share():
    """Seeds differ by far more than the rows: apart the rows overlap, in pairs they do not."""
    control = [0.1, 0.5, 0.9, 0.3, 0.7]
    ours = [c + d for c, d in zip(control, (0.04, 0.05, 0.06, 0.05, 0.05), strict=True)]
    found = paired(control, ours)
    assert found.mean_difference == pytest.approx(0.05) and 0.04 < found.low < found.high < 0.06
    assert mean_row(ours).low < mean_row(control).mean
    assert (found.wins, found.losses, found.n) == (5, 0, 5) and found.sign_p == pytest.approx(1 / 16)


def test_lower_may_be_better_and_a_tie_is_no_win():
    found = paired([0.3, 0.3, 0.3], [0.2, 0.3, 0.4], higher_is_better=False)
    assert (found.wins, found.losses, found.n, found.sign_p) == (1, 1, 3, 1.0)


def test_a_seed_without_a_number_does_not_count():
    found = paired([1.0, math.nan, 3.0], [2.0, 9.0, math.nan])
    assert (found.n, found.control, found.ours, found.mean_difference) == (1, 1.0, 2.0, 1.0)
    assert paired([], []).n == 0 and paired([], []).sign_p == 1.0


def test_other_numbers_of_seeds_are_refused():
    with pytest.raises(InputError, match="same seeds"):
        paired([1.0], [1.0, 2.0])
