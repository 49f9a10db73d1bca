"""From where a hand should be to where its joints should be: damped least squares on a scratch copy of the body.

Engineering. All arms take the same six-row task (place and upright rotation of the tip); rows that a body cannot
move, such as the tilt of a SCARA's hand, are zero both in the error and in the Jacobian.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DAMPING = 0.02
_ROTATION_WEIGHT_M = 0.25  # how many metres one radian of error weighs
_POSTURE_PULL = 0.05  # of a redundant arm, towards its zero posture, per iteration


class HandIK:
    """Solves for the first `num_joints` coordinates of `model`, whose site 'tip' hangs upright in the zero posture.

    Args:
        model: a compiled `mujoco.MjModel` whose arm joints come first.
        num_joints: J, how many joints move the hand.
    """

    def __init__(self, model: Any, num_joints: int) -> None:
        self._model, self._num_joints = model, num_joints
        self._scratch = mujoco.MjData(model)
        self._site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, "tip")
        self._jacobian = np.zeros((6, model.nv))
        self._limits = model.jnt_range[:num_joints].copy()

    def solve(self, tip_m: Floats, yaw_rad: float, start: Floats, iterations: int = 3) -> Floats:
        """Joint coordinates [J] (rad or m) that bring the tip [3] and the yaw there, searched from `start` [J]."""
        joints = self._num_joints
        q = start.copy()
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        wanted = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        scratch, jacobian = self._scratch, self._jacobian
        error = np.empty(6)
        for _ in range(iterations):
            scratch.qpos[:joints] = q
            mujoco.mj_kinematics(self._model, scratch)
            mujoco.mj_comPos(self._model, scratch)
            mujoco.mj_jacSite(self._model, scratch, jacobian[:3], jacobian[3:], self._site)
            spin = wanted @ scratch.site_xmat[self._site].reshape(3, 3).T  # sin(angle) * axis, in its skew part
            error[:3] = tip_m - scratch.site_xpos[self._site]
            error[3:] = spin[2, 1] - spin[1, 2], spin[0, 2] - spin[2, 0], spin[1, 0] - spin[0, 1]
            error[3:] *= 0.5 * _ROTATION_WEIGHT_M
            j = jacobian[:, :joints].copy()
            j[3:] *= _ROTATION_WEIGHT_M
            gram = j @ j.T
            gram.flat[::7] += _DAMPING**2
            pull = -_POSTURE_PULL * q if joints > 6 else None
            if pull is None:
                q += j.T @ np.linalg.solve(gram, error)
            else:
                q += pull + j.T @ np.linalg.solve(gram, error - j @ pull)
            np.clip(q, self._limits[:, 0], self._limits[:, 1], out=q)
        return q
