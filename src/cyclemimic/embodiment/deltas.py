"""Targets to changes and back, along a chunk, for numbers and for poses. Numpy only, float64. Engineering.

Letters in shapes: S steps of a chunk, A action axes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.types import ActionSpace

Numbers = NDArray[np.float64]


def circular(space: ActionSpace) -> NDArray[np.bool_]:
    """Which axes [A] go round in a circle: a hand's angles. Joints have end stops, and no short way round."""
    return np.array([space.kind == "pose" and axis.unit == "rad" for axis in space.axes], np.bool_)


def wrapped(angle: NDArray[Any]) -> Numbers:
    """Angles in [-pi, pi); what lies there already is not touched, so that nothing is rounded twice."""
    angle = np.asarray(angle, np.float64)
    turned = (angle + np.pi) % (2 * np.pi) - np.pi
    return np.where((angle >= -np.pi) & (angle < np.pi), angle, turned)


def deltas_from_targets(targets: NDArray[Any], state: NDArray[Any], circles: NDArray[np.bool_]) -> Numbers:
    """Where to be [S, A] and where it starts [A] to how far to go at each step [S, A]; circles take the short way.

    Raises:
        InputError: shapes do not fit.
    """
    whole = np.concatenate([_start(targets, state, circles), targets])
    steps = np.diff(whole, axis=0)
    return np.where(circles, wrapped(steps), steps)


def targets_from_deltas(deltas: NDArray[Any], state: NDArray[Any], circles: NDArray[np.bool_]) -> Numbers:
    """Undo `deltas_from_targets`, up to rounding; targets of circles come out in [-pi, pi).

    Raises:
        InputError: shapes do not fit.
    """
    path = np.concatenate([_start(deltas, state, circles), deltas]).cumsum(0)[1:]
    return np.where(circles, wrapped(path), path)


def rotation_from_axis_angle(vector: NDArray[Any]) -> Numbers:
    """A rotation matrix [3, 3] from an axis times an angle [3] in radians."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector)
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # sinc keeps both factors exact at small angles, where a division by the angle would not be.
    one, two = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    turned: Numbers = np.eye(3) + one * cross + two * cross @ cross
    return turned


def axis_angle_from_rotation(rotation: NDArray[Any]) -> Numbers:
    """Undo `rotation_from_axis_angle`; the angle comes out in [0, pi]."""
    m = np.asarray(rotation, np.float64)
    # By way of the quaternion, largest component first: stable at every angle, half a turn included.
    trace = np.trace(m)
    squares = np.array([1 + trace, *(1 - trace + 2 * np.diag(m))])
    pairs = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    largest = int(np.argmax(squares))
    if largest == 0:
        quaternion = np.array([squares[0], *pairs])
    else:
        axis = largest - 1
        quaternion = np.empty(4)
        quaternion[0] = pairs[axis]
        quaternion[1:] = m[axis] + m[:, axis]
        quaternion[largest] = squares[largest]
    quaternion = quaternion / np.linalg.norm(quaternion) * (1 if quaternion[0] >= 0 else -1)
    sine = np.linalg.norm(quaternion[1:])
    half = np.arctan2(sine, quaternion[0])
    scale = 2 * half / sine if sine > 0 else 2.0
    vector: Numbers = scale * quaternion[1:]
    return vector


def rotation_from_rpy(rpy: NDArray[Any]) -> Numbers:
    """A rotation matrix [3, 3] from roll, pitch and yaw [3] in radians: about fixed x, then y, then z."""
    roll, pitch, yaw = np.eye(3) * np.asarray(rpy, np.float64)[:, None]
    turned: Numbers = rotation_from_axis_angle(yaw) @ rotation_from_axis_angle(pitch) @ rotation_from_axis_angle(roll)
    return turned


def rpy_from_rotation(rotation: NDArray[Any]) -> Numbers:
    """Undo `rotation_from_rpy` for pitch in (-pi/2, pi/2); straight up or down roll is given to yaw."""
    m = np.asarray(rotation, np.float64)
    level = np.hypot(m[0, 0], m[1, 0])
    pitch = np.arctan2(-m[2, 0], level)
    if level < 1e-9:
        return np.array([0.0, pitch, np.arctan2(-m[0, 1], m[1, 1])])
    return np.array([np.arctan2(m[2, 1], m[2, 2]), pitch, np.arctan2(m[1, 0], m[0, 0])])


def pose_deltas(targets: NDArray[Any], state: NDArray[Any]) -> Numbers:
    """Poses [S, 6] (position, roll, pitch, yaw) and a first one [6] to changes [S, 6] (way, axis times angle).

    Both in the frame of the base: a change of rotation is applied from the left.
    """
    poses = np.concatenate([_start(targets, state, np.zeros(6, np.bool_)), targets])
    turns = [rotation_from_rpy(pose[3:]) for pose in poses]
    changes = [axis_angle_from_rotation(later @ now.T) for now, later in pairwise(turns)]
    return np.concatenate([np.diff(poses[:, :3], axis=0), np.array(changes).reshape(-1, 3)], 1)


def poses_from_deltas(deltas: NDArray[Any], state: NDArray[Any]) -> Numbers:
    """Undo `pose_deltas`, up to rounding."""
    places = np.concatenate([_start(deltas, state, np.zeros(6, np.bool_)), deltas])[:, :3].cumsum(0)[1:]
    turn = rotation_from_rpy(np.asarray(state)[3:])
    angles = []
    for change in deltas:
        turn = rotation_from_axis_angle(change[3:]) @ turn
        angles.append(rpy_from_rotation(turn))
    return np.concatenate([places, np.array(angles).reshape(-1, 3)], 1)


def _start(chunk: NDArray[Any], state: NDArray[Any], circles: NDArray[np.bool_]) -> Numbers:
    """The state as a first row [1, A]."""
    chunk, state = np.asarray(chunk), np.asarray(state)
    if chunk.ndim != 2 or state.shape != chunk.shape[1:] or circles.shape != state.shape:
        raise InputError(
            "chunk",
            expected="actions [S, A], a state [A] and a flag for each axis",
            got=f"{chunk.shape}, {state.shape} and {circles.shape}",
            remedy="Give the state of the axes that the actions move, in their order.",
        )
    return state[None].astype(np.float64)
