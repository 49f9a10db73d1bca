"""What a source's numbers say of motion: a hand's place by its name, sums of actions, principal axes of a state."""

from dataclasses import replace

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.motion import hand_axes, motions, told_by
from cyclemimic.types import ActionSpace, Axis, ClipInfo, Episode

FRAMES = np.zeros((5, 4, 4, 3), np.uint8)
INFO = ClipInfo(name="a", embodiment="arm", fps=5.0, num_frames=5)


def axes(*words: str, kind: str = "absolute") -> tuple[Axis, ...]:
    """From name:unit."""
    found = [word.split(":") for word in words]
    return tuple(Axis(name=name, unit=unit, low=-9, high=9, kind=kind) for name, unit in found)


def episode(state, *words, name="a"):
    state = np.asarray(state, np.float32)
    frames = np.zeros((len(state), 4, 4, 3), np.uint8)
    info = replace(INFO, name=name, num_frames=len(state))
    return Episode(info=info, frames=frames, proprioception=state, proprioception_axes=axes(*words))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("x_m:m", "y_m:m", "z_m:m"), (0, 1, 2)),
        (("roll:rad", "ee.z:m", "ee.y:m", "ee.x:m"), (3, 2, 1)),
        (("left_x:m", "right_x:m", "right_y:m", "right_z:m", "left_y:m"), (1, 2, 3)),
        (("turn_x:rad", "turn_y:rad", "turn_z:rad"), None),
        (("dx:m", "dy:m", "dz:m"), None),
    ],
)
def test_a_hand_is_known_by_its_axes_names_and_metres(words, found):
    assert hand_axes(axes(*words)) == found


def test_actions_add_up_where_no_state_is_named():
    told = np.array([[1, 5], [2, 6], [-1, 7], [0, 8]], np.float32)
    space = ActionSpace(name="arm", axes=(*axes("x_m:m", kind="delta"), *axes("gripper:fraction")), rate_hz=5.0)
    found = told_by(Episode(info=INFO, frames=FRAMES, actions=told, action_space=space))
    assert found.origin == "actions"
    np.testing.assert_array_equal(found.places, [[0, 5], [1, 5], [3, 6], [2, 7], [2, 8]])


def test_a_state_goes_before_actions_and_angles_take_the_short_way():
    space = ActionSpace(name="arm", axes=axes("x_m:m"), rate_hz=5.0)
    found = episode([[3.1], [-3.1], [-3.0], [3.0], [2.9]], "roll:rad")
    both = told_by(replace(found, actions=np.ones((4, 1), np.float32), action_space=space))
    assert both.origin == "state" and np.abs(np.diff(both.places[:, 0])).max() < 0.3


@pytest.mark.parametrize(
    ("known", "got"),
    [({}, "video alone"), ({"proprioception": np.zeros((5, 2), np.float32)}, "a state whose axes have no names")],
)
def test_who_says_nothing_of_motion_is_named(known, got):
    with pytest.raises(InputError, match=f"episode 'a': expected a state or actions with named axes, got {got}"):
        told_by(Episode(info=INFO, frames=FRAMES, **known))


def test_an_episode_names_all_axes_of_its_state_or_none():
    with pytest.raises(
        InputError, match=r"proprioception_axes: expected an axis for each of 2 numbers, or none, got 1"
    ):
        episode(np.zeros((3, 2)), "x:m")


def test_a_hand_is_measured_in_metres():
    told = {"a": told_by(episode(np.arange(15).reshape(5, 3), "z:m", "x:m", "y:m"))}
    places, motion = motions(told, {"a": 2}, ["a"], "here")
    assert (motion.unit, motion.within, motion.moving) == ("m", 0.01, 0.02) and "x, y, z of the state" in motion.said
    np.testing.assert_array_equal(places["a"][0], [1, 2, 0])


def walk(seed: int, *, frames: int = 60) -> np.ndarray:
    """Four numbers: two that go together and far, one that goes alone and little, one that stays."""
    rng = np.random.default_rng(seed)
    together, alone = rng.normal(size=(2, frames)).cumsum(1)
    return np.stack([100 * together, 3 * together, 1e-3 * alone, np.full(frames, 7.0)], 1)


def test_a_state_without_a_hand_is_measured_along_its_principal_axes():
    words = ("a:rad", "b:rad", "c:fraction", "d:rad")
    told = {name: told_by(episode(walk(i) / 100, *words, name=name)) for i, name in enumerate("uvw")}
    gaps = {"u": 2, "v": 2, "w": 2}
    places, motion = motions(told, gaps, ["u", "v"], "here")
    moved = {name: place[2:] - place[:-2] for name, place in places.items()}
    fitted = np.concatenate([moved["u"], moved["v"]])
    assert np.square(fitted).sum(1).mean() == pytest.approx(1)  # lengths have an RMS of one
    # The pair that goes together is the first axis, whatever its units; what goes alone weighs half of it.
    together = told["w"].places[2:, 0] - told["w"].places[:-2, 0]
    assert abs(np.corrcoef(moved["w"][:, 0], together)[0, 1]) > 0.99
    first, second, third = fitted.var(0)
    assert first == pytest.approx(2 * second, rel=0.2) and third < 1e-6
    assert "of 3 numbers of the state" in motion.said and "a [rad], b [rad]" in motion.said
    assert motion.unit == "of the usual change" and motion.axes == ("1st", "2nd", "3rd")


def test_few_numbers_leave_axes_on_which_nothing_moves():
    told = {"a": told_by(episode(np.arange(6.0)[:, None] ** 2, "a:rad"))}
    places, _ = motions(told, {"a": 1}, ["a"], "here")
    assert places["a"].shape == (6, 3) and not places["a"][:, 1:].any() and places["a"][:, 0].std() > 0


def test_a_state_that_stays_or_another_in_each_clip_is_refused():
    still = {"a": told_by(episode(np.ones((5, 2)), "a:rad", "b:rad"))}
    with pytest.raises(InputError, match="a state that changes over the gap, got 4 pairs in which nothing changes"):
        motions(still, {"a": 1}, ["a"], "here")
    other = {**still, "b": told_by(episode(np.ones((5, 1)), "c:rad", name="b"))}
    with pytest.raises(InputError, match=r"here: expected x, y and z .* got a \[rad\], b \[rad\] in 'a', c \[rad\] in"):
        motions(other, {"a": 1, "b": 1}, ["a"], "here")
