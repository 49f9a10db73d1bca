"""A renderer without OpenGL: one ray per pixel through MuJoCo, a flat colour by geom, shading from the normals.

Engineering. It needs no system library and draws alike on every machine. Besides, whatever is under the hand lies in
its shade, as if lit from straight above: in one picture, height over the table would otherwise be a guess.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from cyclemimic.types import UInt8
from cyclemimic.worlds.arms_disturbance import Ball

_SKY = (0.16, 0.19, 0.24)
_LIGHT = np.array([-0.35, 0.30, 0.89])
_AMBIENT, _DIFFUSE = 0.45, 0.60
_SHADE, _SHADE_RADIUS_M = 0.62, 0.022


def ray_directions(xmat: NDArray[np.float64], fov_deg: float, size_px: int) -> NDArray[np.float64]:
    """Unit vectors [size_px ** 2, 3] through the pixels' centres, rows from the top. `xmat` [3, 3]: right, up, back."""
    half = np.tan(np.radians(fov_deg) / 2)
    across = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    right, up = np.meshgrid(across * half, -across * half)
    local = np.stack([right, up, -np.ones_like(right)], -1).reshape(-1, 3)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    return np.asarray(local @ xmat.T)


class RayRenderer:
    """Draws a model from one camera by casting rays.

    Args:
        model: a compiled `mujoco.MjModel`.
        data: its `MjData`, with the kinematics computed once.
        camera: name of a camera; call `look` whenever it moved.
        size_px: height and width of the picture.
    """

    def __init__(self, model: Any, data: Any, camera: str, size_px: int) -> None:
        self._camera = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        self._size_px = size_px
        self.look(model, data)
        count = len(self._rays)
        self._geom = np.empty(count, np.int32)
        self._depth = np.empty(count)
        self._normal = np.zeros(3 * count)
        self._groups = np.ones(6, np.uint8)
        self._has_normals = "normal" in (mujoco.mj_multiRay.__doc__ or "")

    def look(self, model: Any, data: Any) -> None:
        """Take over where the camera is now."""
        axes = data.cam_xmat[self._camera].reshape(3, 3)
        self._eye = data.cam_xpos[self._camera].copy()
        self._rays = ray_directions(axes, float(model.cam_fovy[self._camera]), self._size_px)
        self._flat_rays = np.ascontiguousarray(self._rays.reshape(-1))

    def draw(self, model: Any, data: Any, hand_m: NDArray[np.float64], ball: Ball | None = None) -> UInt8:
        """The picture [H, W, 3] of `data`, whose kinematics are up to date; `hand_m` [3] is what casts the shade.

        A `ball` is no part of the model: it is seen, before and behind other things, and touches nothing.
        """
        count = len(self._geom)
        head = (model, data, self._eye, self._flat_rays, self._groups, 1, -1, self._geom, self._depth)
        if self._has_normals:
            mujoco.mj_multiRay(*head, self._normal, count, mujoco.mjMAXVAL)
            normal = self._normal.reshape(-1, 3)
        else:
            mujoco.mj_multiRay(*head, count, mujoco.mjMAXVAL)
            normal = self._normals_from_depth()
        hit = self._depth >= 0
        self._geom[~hit] = -1  # MuJoCo leaves the geoms of rays that hit nothing unwritten
        light = _AMBIENT + _DIFFUSE * np.maximum(normal @ _LIGHT, 0.0)
        points = self._eye + self._depth[:, None] * self._rays
        off = points - hand_m
        shaded = (off[:, 0] ** 2 + off[:, 1] ** 2 < _SHADE_RADIUS_M**2) & (off[:, 2] < -0.004)
        light[shaded] *= _SHADE
        palette = np.vstack([model.geom_rgba[:, :3], _SKY])  # geom -1, no hit, takes the last row
        light[~hit] = 1.0
        colour = palette[self._geom] * light[:, None]
        if ball is not None:
            self._add(ball, np.where(hit, self._depth, np.inf), colour)
        pixels = np.minimum(colour, 1.0) * 255.0
        picture: UInt8 = pixels.astype(np.uint8).reshape(self._size_px, self._size_px, 3)
        return picture

    def _add(self, ball: Ball, depth: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
        """Paint the ball into the colours [count, 3] wherever nothing of less `depth` hides it."""
        off = self._eye - ball.centre_m
        along = self._rays @ off
        square = along**2 - (off @ off - ball.radius_m**2)  # of half the chord
        near = -along - np.sqrt(np.maximum(square, 0.0))
        seen = (square > 0) & (near > 0) & (near < depth)
        normal = (off + near[seen, None] * self._rays[seen]) / ball.radius_m
        light = _AMBIENT + _DIFFUSE * np.maximum(normal @ _LIGHT, 0.0)
        colour[seen] = np.array(ball.rgb) * light[:, None]

    def _normals_from_depth(self) -> NDArray[np.float64]:
        """For a MuJoCo whose rays return no normals: the cross product of neighbouring points' differences."""
        size = self._size_px
        points = (self._depth[:, None] * self._rays).reshape(size, size, 3)
        normal = np.cross(np.asarray(np.gradient(points, axis=0)), np.asarray(np.gradient(points, axis=1))).reshape(
            -1, 3
        )
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
        return np.asarray(np.where((normal * self._rays).sum(-1, keepdims=True) > 0, -normal, normal))
