"""Where a clip ends is where things moved last."""

import numpy as np
import pytest

from cyclemimic.data.hindsight import END_GRID, last_change


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
