"""Matches find a displacement whatever the colours are."""

import pytest
import torch
from torch.nn import functional as F

from cyclemimic.nn.matching import MatchingStem, matches


def square(row, column, colour, ground):
    frames = torch.full((1, 3, 16, 16), ground)
    frames[:, :, row : row + 4, column : column + 4] = colour
    return frames


def test_the_best_match_is_the_place_that_it_came_from():
    generator = torch.Generator().manual_seed(0)
    now = F.normalize(torch.randn(2, 8, 12, 12, generator=generator), dim=1)
    later = torch.roll(now, (1, -2), dims=(2, 3))
    best = matches(now, later, reach=3).argmax(1)
    came_from = (3 - 1) * 7 + (3 + 2)
    assert (best[:, 4:8, 4:8] == came_from).all()


def test_beyond_the_edge_nothing_matches():
    ones = F.normalize(torch.ones(1, 2, 5, 5), dim=1)
    found = matches(ones, ones, reach=1)
    assert found[0, 0, 0, 0] == 0 and found[0, 4].min() == pytest.approx(1)


def test_one_motion_in_two_colours_reads_more_alike_than_as_a_difference_of_pixels():
    bright = square(4, 4, 0.9, 0.3), square(6, 4, 0.9, 0.3)
    dark = square(4, 4, 0.1, 0.7), square(6, 4, 0.1, 0.7)

    def raw(now, later):
        seen = [F.normalize(F.unfold(f, 3, padding=1).view(1, 27, 16, 16) - f.mean(), dim=1) for f in (now, later)]
        return matches(*seen, reach=3)

    def cosine(a, b):
        return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))

    assert cosine(bright[1] - bright[0], dark[1] - dark[0]) < -0.9
    assert cosine(raw(*bright), raw(*dark)) > 0.5


def test_patches_lie_on_the_grid_and_the_gradient_reaches_both_frames():
    torch.manual_seed(0)
    stem = MatchingStem(24, 4)
    now, later = (torch.rand(2, 3, 17, 17, requires_grad=True) for _ in range(2))
    found = stem(now, later)
    assert found.grid == (5, 5) and found.patches.shape == (2, 25, 24)
    for gradient in torch.autograd.grad(found.patches.square().sum(), [now, later]):
        assert gradient.abs().sum() > 0


def test_patches_smaller_than_what_is_matched_are_refused():
    with pytest.raises(ValueError, match="4 px"):
        MatchingStem(24, 2)
