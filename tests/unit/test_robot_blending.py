"""Overlapping chunks: changes are summed up to targets before a mean is taken, with exact numbers."""

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.robot.blending import Blending, Newest

DELTAS = np.array([True, False])


def chunk(*rows):
    return np.array(rows, np.float32)


def play(plan, steps, chunks, scale=1.0):
    """What is done at each step; `chunks` by the step at which they are added. `scale`: what limits leave of x."""
    done = []
    for step in range(steps):
        if step in chunks:
            plan.saw(step)
            plan.add(chunks[step], step)
        action = plan.action(step)
        taken = action * np.array([scale, 1], np.float32)
        plan.took(taken)
        done.append(taken.tolist())
    return done


def test_chunks_whose_targets_agree_blend_to_the_same_way():
    way = chunk([1, 0.5], [2, 0.25], [3, 0.5], [-1, 0.75], [0.5, 1], [4, 0])
    chunks = {0: way[:4], 2: way[2:], 3: way[3:]}
    for newer in (1.0, 0.5, 3.0):
        assert play(Blending(DELTAS, newer), 6, chunks) == way.tolist()


def test_targets_are_averaged_and_not_changes():
    # Places: the first chunk goes 1, 2, 3, 4; the second, from 1, goes to 5 and stays. Means: 3.5, 4, 4.5.
    chunks = {0: chunk([1, 0], [1, 0], [1, 0], [1, 0]), 1: chunk([4, 1], [0, 1], [0, 1], [0, 1])}
    done = play(Blending(DELTAS), 5, chunks)
    assert [x for x, _ in done] == [1, 2.5, 0.5, 0.5, 0.5]  # ends at 5, where the second alone speaks
    assert [grip for _, grip in done] == [0, 0.5, 0.5, 0.5, 1]
    assert sum(x for x, _ in done) == 5


def test_a_mean_of_changes_would_end_elsewhere():
    chunks = {0: chunk([1, 0], [1, 0]), 1: chunk([4, 0], [-4, 0])}
    done = play(Blending(DELTAS), 3, chunks)
    assert [x for x, _ in done] == [1, 2.5, -2.5] and sum(x for x, _ in done) == 1  # mean of changes: 1, 2.5, -4


def test_weights_are_relative_to_the_chunk_before():
    chunks = {0: chunk([1, 0], [1, 0], [1, 0]), 1: chunk([5, 0], [0, 0])}
    done = play(Blending(DELTAS, newer=3.0), 2, chunks)
    assert done[1][0] == (1 * 2 + 3 * 6) / 4 - 1


def test_what_limits_left_undone_is_made_up_for():
    # Half of each change is clipped away; the old plan still wants its old place, a new plan starts where we are.
    first = {0: chunk([2, 0], [2, 0], [2, 0])}
    assert [x for x, _ in play(Blending(DELTAS), 3, first, scale=0.5)] == [1, 1.5, 1.75]
    both = {**first, 1: chunk([2, 0], [2, 0])}
    assert [x for x, _ in play(Blending(DELTAS), 2, both, scale=0.5)] == [1, 0.5 * ((4 + 3) / 2 - 1)]


def test_a_late_chunk_counts_from_where_it_was_asked():
    plan = Blending(DELTAS)
    plan.saw(0)
    plan.add(chunk([1, 0], [1, 0]), 0)
    plan.took(plan.action(0))
    plan.saw(1)
    plan.took(plan.action(1))
    assert plan.action(2) is None
    plan.add(chunk([5, 0], [5, 0]), 1)  # from 1, where step 1 began: 6, 11
    assert plan.action(2).tolist() == [9, 0]  # we are at 2


def test_forgotten_chunks_do_not_speak():
    for plan in (Blending(DELTAS), Newest()):
        plan.saw(0)
        plan.add(chunk([1, 0], [1, 0]), 0)
        plan.clear()
        assert plan.action(0) is None
    with pytest.raises(InputError, match="--blend"):
        Blending(DELTAS, newer=0.0)


def test_without_blending_the_newest_governs_and_the_past_is_left_out():
    plan = Newest()
    plan.add(chunk([1, 0], [2, 0], [3, 0]), 0)
    assert plan.action(1).tolist() == [2, 0]
    plan.add(chunk([7, 0], [8, 0]), 1)
    assert plan.action(2).tolist() == [8, 0] and plan.action(3) is None
