"""Neighbours by latent action: of every other body, the nearest codes, ties by a lot that repeats."""

import io

import numpy as np
from PIL import Image

from cyclemimic.evaluate.models import label_pairs
from cyclemimic.evaluate.neighbours import neighbour_sheet, neighbours
from tests.unit.evaluate_squares import ExactTokenizer, squares

PAIRS = squares(400, seed=3, bodies=("red", "green", "blue"))
CODES = label_pairs(ExactTokenizer(), PAIRS)


def test_neighbours_are_the_nearest_of_every_other_body():
    found = neighbours(PAIRS, CODES, seed=0)
    assert [PAIRS.bodies[PAIRS.body[row.query]] for row in found] == ["red"] * 2 + ["green"] * 2 + ["blue"] * 2
    for row in found:
        assert {int(PAIRS.body[n.pair]) for n in row.found} == {0, 1, 2} - {int(PAIRS.body[row.query])}
        for near in row.found:
            asked = CODES[row.query]
            away = (asked != CODES).sum(1)[PAIRS.body == PAIRS.body[near.pair]]
            assert near.differ == away.min() == (CODES[near.pair] != asked).sum()
            assert near.ties == (away == near.differ).sum()


def test_queries_move_and_the_lot_repeats():
    first, again, other = (neighbours(PAIRS, CODES, seed=seed) for seed in (0, 0, 1))
    assert first == again and first != other
    changed = np.abs(PAIRS.later.astype(int) - PAIRS.now).mean((1, 2, 3))
    for row in neighbours(PAIRS, CODES, seed=2, per_body=20):
        own = changed[PAIRS.body == PAIRS.body[row.query]]
        assert (own > changed[row.query]).mean() < 0.34


def test_the_sheet_has_a_row_for_each_query_and_two_pictures_for_each_body():
    one = Image.open(io.BytesIO(neighbour_sheet(PAIRS, CODES, seed=0, per_body=1)))
    two = Image.open(io.BytesIO(neighbour_sheet(PAIRS, CODES, seed=0, per_body=2)))
    assert one.width >= 6 * 24 * 3 and two.width >= one.width
    assert two.height - one.height == 3 * (24 * 3 + 24)
