"""What else may move in the pictures of the arms world: a ball that nobody touches, or the camera. Never the physics.

Both are functions of the task and of the time alone, so that a restored world goes on as before. They are there to
ask whether latent actions name the hand's motion or whatever moves. Engineering; the numbers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.randomness import rng_for
from cyclemimic.types import Task
from cyclemimic.worlds.arms_scene import CAMERA_DISTANCE_M, CAMERA_PITCH_RAD, camera_frame
from cyclemimic.worlds.arms_tasks import Floats

Disturbance = Literal["none", "distractor", "moving_camera"]

_BALL_COLOURS = ((0.95, 0.80, 0.10), (0.95, 0.45, 0.10), (0.20, 0.75, 0.80), (0.75, 0.35, 0.80))
_BALL_HALF_WAY_M = 0.25  # it rolls between the left and the right edge of the picture
_PAN_RAD, _TILT_RAD, _ZOOM, _SHAKE_RAD = 0.10, 0.05, 0.08, 0.006


@dataclass(frozen=True, kw_only=True)
class Ball:
    """A ball on the table, behind the reach of the hands: its centre [3], its radius, its colour (0 to 1)."""

    centre_m: Floats
    radius_m: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class CameraPose:
    """Where the camera is [3], and the axes of its picture [3, 3]: columns to the right, up, backwards."""

    place_m: Floats
    axes: Floats


def check_disturbance(disturbance: str) -> None:
    """Raise InputError unless `disturbance` is one of `Disturbance`."""
    known = get_args(Disturbance)
    if disturbance not in known:
        remedy = did_you_mean(disturbance, known)
        raise InputError("disturbance", expected=f"one of {known}", got=repr(disturbance), remedy=remedy)


def ball_at(task: Task, steps: int) -> Ball:
    """The ball after so many steps: to and fro at 1.5 to 4.5 cm a step, on a line of its own for each start."""
    rng = rng_for(task.seed, 0, f"arms/{task.skill}/ball")
    radius_m = float(rng.uniform(0.030, 0.045))
    x, tilt_rad = rng.uniform(0.22, 0.36), rng.uniform(-0.2, 0.2)
    way_m = rng.uniform(0, 4 * _BALL_HALF_WAY_M) + rng.uniform(0.015, 0.045) * steps
    y = abs(way_m % (4 * _BALL_HALF_WAY_M) - 2 * _BALL_HALF_WAY_M) - _BALL_HALF_WAY_M  # a triangle wave
    rgb = _BALL_COLOURS[int(rng.integers(len(_BALL_COLOURS)))]
    return Ball(centre_m=np.array([x + np.sin(tilt_rad) * y, y, radius_m]), radius_m=radius_m, rgb=rgb)


def camera_at(task: Task, steps: int) -> CameraPose:
    """The camera after so many steps: a slow pan, tilt and zoom about what it looks at, and a small shake."""
    rng = rng_for(task.seed, 0, f"arms/{task.skill}/camera")
    period_steps, phase_rad = rng.uniform(12, 30, 3), rng.uniform(0, 2 * np.pi, 3)
    pan, tilt, zoom = np.sin(2 * np.pi * steps / period_steps + phase_rad)
    shake = rng_for(task.seed, steps, f"arms/{task.skill}/shake").uniform(-_SHAKE_RAD, _SHAKE_RAD, 2)
    place, axes = camera_frame(
        pan_rad=float(pan * _PAN_RAD + shake[0]),
        pitch_rad=float(CAMERA_PITCH_RAD + tilt * _TILT_RAD + shake[1]),
        distance_m=float(CAMERA_DISTANCE_M * (1 + zoom * _ZOOM)),
    )
    right, up = np.array(axes[:3]), np.array(axes[3:])
    return CameraPose(place_m=np.array(place), axes=np.stack([right, up, np.cross(right, up)], axis=1))
