"""Targets to changes and back: by hand, exact inverses, the short way round a circle, rotations at every angle."""

import numpy as np
import pytest

from cyclemimic.embodiment.arms import ARMS_ACTION_SPACE
from cyclemimic.embodiment.deltas import (
    axis_angle_from_rotation,
    circular,
    deltas_from_targets,
    pose_deltas,
    poses_from_deltas,
    rotation_from_axis_angle,
    rotation_from_rpy,
    rpy_from_rotation,
    targets_from_deltas,
    wrapped,
)
from cyclemimic.embodiment.so101 import SO101_ACTION_SPACE, SO101_CAMERAS, SO101_PROPRIOCEPTION
from cyclemimic.errors import InputError
from cyclemimic.types import ActionSpace, Axis


def test_by_hand_and_the_short_way_round():
    circles = np.array([False, True])
    targets = np.array([[1.0, 3.0], [3.0, -3.0], [2.0, -2.5]])
    deltas = deltas_from_targets(targets, np.array([0.5, 2.5]), circles)
    np.testing.assert_allclose(deltas, [[0.5, 0.5], [2.0, 2 * np.pi - 6], [-1.0, 0.5]])
    np.testing.assert_allclose(targets_from_deltas(deltas, np.array([0.5, 2.5]), circles), targets)


def test_exact_inverses_on_noise():
    rng = np.random.default_rng(0)
    circles = np.array([False, True, True, False, True])
    targets = rng.uniform(-np.pi, np.pi, (37, 5))
    state = rng.uniform(-np.pi, np.pi, 5)
    deltas = deltas_from_targets(targets, state, circles)
    assert (np.abs(deltas[:, circles]) <= np.pi).all()
    np.testing.assert_allclose(targets_from_deltas(deltas, state, circles), targets, atol=1e-12)
    back = deltas_from_targets(targets_from_deltas(deltas, state, circles), state, circles)
    np.testing.assert_allclose(back, deltas, atol=1e-12)
    angles = rng.uniform(-np.pi, np.pi, 31)
    assert np.array_equal(wrapped(angles), angles)
    assert wrapped(np.array([np.pi]))[0] == -np.pi


def test_only_the_angles_of_a_hand_are_circles():
    assert circular(ARMS_ACTION_SPACE).tolist() == [False, False, False, True, False]
    assert not circular(SO101_ACTION_SPACE).any()


def test_rotations_at_every_angle():
    rng = np.random.default_rng(1)
    for angle in (0.0, 1e-9, 1e-4, 0.7, 2.9, np.pi - 1e-7):
        axis = rng.normal(size=3)
        vector = angle * axis / np.linalg.norm(axis)
        turn = rotation_from_axis_angle(vector)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(axis_angle_from_rotation(turn), vector, atol=1e-8)
    for axis in np.eye(3):
        half = rotation_from_axis_angle(np.pi * axis)
        np.testing.assert_allclose(np.abs(axis_angle_from_rotation(half)), np.pi * axis, atol=1e-8)
    np.testing.assert_allclose(rotation_from_axis_angle(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    for _ in range(11):
        rpy = rng.uniform([-np.pi, -1.5, -np.pi], [np.pi, 1.5, np.pi])
        np.testing.assert_allclose(rpy_from_rotation(rotation_from_rpy(rpy)), rpy, atol=1e-9)
    down = rotation_from_rpy(np.array([0.3, np.pi / 2, 0.5]))
    np.testing.assert_allclose(rotation_from_rpy(rpy_from_rotation(down)), down, atol=1e-7)


def test_poses_go_there_and_back():
    rng = np.random.default_rng(2)
    low, high = [-1, -1, -1, -3, -1.5, -3], [1, 1, 1, 3, 1.5, 3]
    targets, state = rng.uniform(low, high, (13, 6)), rng.uniform(low, high)
    deltas = pose_deltas(targets, state)
    assert deltas.shape == (13, 6)
    np.testing.assert_allclose(poses_from_deltas(deltas, state), targets, atol=1e-9)
    yaw = pose_deltas(np.array([[0, 0, 0, 0, 0, 0.4]]), np.array([0, 0, 0, 0, 0, 0.1]))
    np.testing.assert_allclose(yaw, [[0, 0, 0, 0, 0, 0.3]], atol=1e-12)
    assert pose_deltas(np.zeros((0, 6)), state).shape == poses_from_deltas(np.zeros((0, 6)), state).shape == (0, 6)


def test_so101():
    names = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
    assert [axis.name for axis in SO101_ACTION_SPACE.axes] == names
    assert {axis.kind for axis in SO101_ACTION_SPACE.axes} == {"absolute"}
    assert [axis.unit for axis in SO101_ACTION_SPACE.axes] == ["rad"] * 5 + ["fraction"]
    assert (SO101_ACTION_SPACE.rate_hz, SO101_ACTION_SPACE.kind) == (30.0, "joints")
    assert [(c.height_px, c.width_px) for c in SO101_CAMERAS] == [(480, 640)] * 2
    assert len(SO101_PROPRIOCEPTION) == 6


def test_errors():
    with pytest.raises(InputError, match="order"):
        deltas_from_targets(np.zeros((3, 2)), np.zeros(3), np.zeros(2, bool))
    with pytest.raises(InputError, match="order"):
        targets_from_deltas(np.zeros(2), np.zeros(2), np.zeros(2, bool))
    with pytest.raises(InputError, match="target or a change"):
        Axis(name="x", unit="m", low=0, high=1, kind="relative")
    with pytest.raises(InputError, match="what its axes move"):
        ActionSpace(name="a", axes=(), rate_hz=1.0, kind="wheels")
    with pytest.raises(InputError, match="above 0 Hz"):
        ActionSpace(name="a", axes=(), rate_hz=0.0)
