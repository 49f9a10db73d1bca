"""Where a clip ends is where things moved last."""

import numpy as np
import pytest

from cyclemimic.data.hindsight import END_GRID, last_change, moving_maps
from cyclemimic.errors import InputError


def clip(columns, size=40, row=12):
    frames = np.full((len(columns), size, size, 3), 90, np.uint8)
    for frame, column in zip(frames, columns, strict=True):
        frame[row - 2 : row + 2, column - 2 : column + 2] = 200
    return frames


def test_change_lies_in_the_cells_where_the_square_was_and_is():
    shares = last_change(clip([7, 22, 37])).reshape(END_GRID, END_GRID)
    assert shares[2, 4] == pytest.approx(0.5)
    assert shares[2, 7] == pytest.approx(0.5)
    assert shares.sum() == pytest.approx(1)


def test_nothing_moved_means_nothing_is_known():
    assert np.allclose(last_change(clip([30, 30])), END_GRID**-2)


def test_noise_is_no_motion():
    frames = clip([7, 22, 37])
    noisy = frames + np.random.default_rng(0).integers(0, 8, frames.shape).astype(np.uint8)
    np.testing.assert_allclose(last_change(noisy), last_change(frames), atol=0.02)


def test_pictures_that_the_grid_does_not_divide_are_covered_whole():
    frames = np.zeros((2, 37, 37, 3), np.uint8)
    frames[1] = 200
    assert last_change(frames).sum() == pytest.approx(1)
    assert last_change(frames).min() > 0


def test_what_moves_lies_where_the_square_is_and_not_where_it_was_or_will_be():
    maps = moving_maps(clip([7, 22, 37])).reshape(3, END_GRID, END_GRID)
    assert maps[1, 2, 4] == pytest.approx(1)
    assert (maps[0, 2, 1], maps[2, 2, 7]) == (pytest.approx(0.5), pytest.approx(0.5)), "one change at either end"
    assert np.array_equal(maps[2].ravel(), last_change(clip([7, 22, 37])))


def test_what_rests_is_where_it_was():
    going = moving_maps(clip([7, 22, 37, 37, 37, 37])).reshape(6, END_GRID, END_GRID)
    assert all(np.array_equal(m, going[1]) for m in going[2:]) and going[1, 2, 4] == pytest.approx(1)
    late = moving_maps(clip([7, 7, 7, 22, 37])).reshape(5, END_GRID, END_GRID)
    assert all(np.array_equal(m, late[3]) for m in late[:3]) and late[3, 2, 4] == pytest.approx(1)


def test_a_clip_at_rest_and_one_frame():
    assert np.allclose(moving_maps(clip([30, 30, 30])), END_GRID**-2)
    with pytest.raises(InputError, match="two frames"):
        moving_maps(clip([30]))
