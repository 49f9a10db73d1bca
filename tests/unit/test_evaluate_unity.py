"""Retrieval with ties, and how bodies share codes."""

import itertools
import math

import numpy as np
import pytest

from cyclemimic.evaluate.probes import Labelled
from cyclemimic.evaluate.unity import (
    divergence,
    expected_precision,
    jensen_shannon,
    matched_pairs,
    retrieval,
    shares,
)
from tests.unit.evaluate_squares import CODES


def _labelled(codes, moved, body):
    return Labelled(
        codes=codes, displacement_m=moved.astype(np.float32), body=body, clip=np.arange(len(codes)), num_codes=CODES
    )


def _motions(count=600, seed=0):
    codes = np.random.default_rng(seed).integers(0, CODES, (count, 2))
    moved = np.concatenate([(codes - 4) * 2, np.zeros((count, 1))], 1) / 100
    return codes, moved, np.array(["a", "b", "c"])[np.arange(count) % 3]


def test_expected_precision_is_the_mean_over_all_orders_of_ties():
    def precision(right):
        hits = np.flatnonzero(right)
        return float(np.mean([(i + 1) / (place + 1) for i, place in enumerate(hits)]))

    distance, right = np.array([0, 1, 1, 1, 2]), np.array([0, 1, 0, 1, 1], bool)
    orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
    by_hand = np.mean([precision(right[list(order)]) for order in orders])
    assert expected_precision(distance, right) == pytest.approx(by_hand)
    assert expected_precision(np.array([0, 1]), np.array([True, False])) == 1
    assert expected_precision(np.array([0, 1]), np.array([False, True])) == 0.5


def test_codes_with_one_meaning_find_equal_motions_and_permuted_codes_find_nothing():
    codes, moved, body = _motions()
    same = retrieval(_labelled(codes, moved, body), ["a", "b", "c"], seed=0)
    assert same.mean_precision == pytest.approx(1) and same.chance < 0.1
    permuted = (codes + 3 * (body == "b")[:, None] + 6 * (body == "c")[:, None]) % CODES
    other = retrieval(_labelled(permuted, moved, body), ["a", "b", "c"], seed=0)
    assert other.mean_precision < 0.15
    assert math.isnan(retrieval(_labelled(codes, moved, body), ["a"], seed=0).mean_precision)
    assert math.isnan(retrieval(_labelled(codes, moved * 0, body), ["a", "b"], seed=0).mean_precision)


def test_bodies_that_do_other_things_are_apart_at_large_but_not_among_equal_motions():
    codes, moved, body = _motions(1500)
    kept = ~((body == "a") & (codes[:, 0] > 5)) & ~((body == "b") & (codes[:, 0] < 3))
    apart = divergence(_labelled(codes[kept], moved[kept], body[kept]), ["a", "b", "c"], seed=0)
    assert apart.raw > 0.04 and abs(apart.matched) < 0.01
    permuted = (codes + 3 * (body == "b")[:, None]) % CODES
    skewed = codes[:, 0] < 4  # where all codes are alike, a permutation does not change their shares
    meant = divergence(_labelled(permuted[skewed], moved[skewed], body[skewed]), ["a", "b", "c"], seed=0)
    assert meant.matched > 0.1


def test_few_pairs_alone_make_no_divergence():
    codes, moved, body = _motions(90)
    assert abs(divergence(_labelled(codes, moved, body), ["a", "b", "c"], seed=0).raw) < 0.05
    assert jensen_shannon([codes[body == b] for b in "abc"], CODES) > 0.05
    nothing = divergence(_labelled(codes, moved, body), ["a"], seed=0)
    assert math.isnan(nothing.raw) and math.isnan(nothing.matched)


def test_divergence_by_hand():
    zeros, ones = np.zeros((5, 1), np.int64), np.ones((7, 1), np.int64)
    assert jensen_shannon([zeros, ones], 2) == pytest.approx(1)
    assert jensen_shannon([zeros, zeros], 2) == 0
    assert shares(np.array([[0, 1], [0, 0]]), 3).tolist() == [[1, 0, 0], [0.5, 0.5, 0]]


def test_matched_pairs_moved_alike_on_every_body():
    codes, moved, body = _motions()
    table = matched_pairs(_labelled(codes, moved, body), ["a", "b", "c"])
    assert len(table) > 100 and (body[table] == np.array(["a", "b", "c"])).all()
    assert np.ptp(moved[table], axis=1).max() < 0.01
    assert matched_pairs(_labelled(codes, moved, body), ["a", "never filmed"]).shape == (0, 2)
