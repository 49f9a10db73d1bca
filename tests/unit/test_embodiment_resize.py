import numpy as np
import pytest

from cyclemimic.embodiment.resize import resampler_name, resize_square
from cyclemimic.errors import InputError

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, (*shape, 3), np.uint8)


def test_whole_factors_are_rounded_means():
    frames = noise(2, 21, 21)
    want = np.floor(frames.reshape(2, 7, 3, 7, 3, 3).mean((2, 4)) + 0.5)
    np.testing.assert_array_equal(resize_square(frames, 7), want)


def test_large_factors_do_not_overflow():
    assert (resize_square(np.full((1, 68, 68, 3), 255, np.uint8), 2) == 255).all()


def test_crop_keeps_the_centre_and_squash_everything():
    frames = np.zeros((1, 6, 10, 3), np.uint8)
    frames[:, :, 2:8] = 200
    assert (resize_square(frames, 3) == 200).all()
    wide = resize_square(np.ascontiguousarray(frames.repeat(3, 2)), 3, "squash")
    assert wide.shape == (1, 3, 3, 3) and wide[0, 0, 0, 0] < 200 == wide[0, 0, 1, 0]
    assert (resize_square(frames.transpose(0, 2, 1, 3).copy(), 3) == 200).all()


def test_squash_uses_whole_factors_of_each_axis():
    frames = noise(2, 6, 15)
    want = np.floor(frames.reshape(2, 3, 2, 3, 5, 3).mean((2, 4)) + 0.5)
    np.testing.assert_array_equal(resize_square(frames, 3, "squash"), want)


@pytest.mark.parametrize("size_px", [5, 11, 13, 17, 29])
def test_other_sizes_keep_the_mean(size_px):
    smooth = np.linspace(20, 220, 13)[None, :, None, None].repeat(13, 2).repeat(3, 3).astype(np.uint8)
    small = resize_square(smooth, size_px)
    assert small.shape == (1, size_px, size_px, 3) and small.dtype == np.uint8
    assert abs(small.mean() - smooth.mean()) < 2
    assert (np.diff(small[0, :, 0, 0].astype(int)) >= 0).all()


def test_the_size_that_is_there_is_left_alone():
    frames = noise(2, 7, 7)
    np.testing.assert_array_equal(resize_square(frames, 7), frames)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="Did you mean 'crop'"):
        resampler_name("crops")
    with pytest.raises(InputError):
        resize_square(noise(1, 4, 4), 0)
    with pytest.raises(InputError):
        resize_square(noise(1, 4, 4).astype(np.float32), 2)
