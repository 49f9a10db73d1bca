"""Frames without their camera's motion, as far as a shift, or a shift and a turn, can undo it. Engineering.

Every shot is held at the middle of its camera's path. Nothing is invented: the border that is not seen in every frame
is cut off, the same on all frames of a clip, so the picture shows a little less. A camera that wanders farther than
`FARTHEST` cannot be held still in one picture, and its clip is left as it is; a remark says so. What lies at another
depth than most of the picture keeps a part of its motion (parallax), and pictures are resampled once more.

Letters in shapes: T frames, H W picture.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from cyclemimic.data.camera import camera_motion, small_grey, watch_camera
from cyclemimic.data.cuts import find_cuts
from cyclemimic.data.flow import opencv
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.types import Float64, UInt8

Still = Literal["shift", "turn"]
FARTHEST = 0.15  # of either side: what may be cut off at each end
KEY_WAY, KEY_AGREEMENT = 0.08, 0.65  # beyond, the path goes on from another frame
REST_PX = 0.15  # of the small picture: finer than what a user should be warned of
LOST_SHARE = 0.1  # of the frames whose camera could not be followed
METHOD = f"corners, from key frame to key frame, to the middle of the path, border up to {FARTHEST} cut off; version 3"
_CUT_PX = 64


def named_mode(text: str) -> Still:
    """`shift` or `turn`.

    Raises:
        InputError: neither.
    """
    for mode in get_args(Still):
        if text == mode:
            found: Still = mode
            return found
    raise InputError("stabilise", expected="shift or turn", got=repr(text), remedy=did_you_mean(text, get_args(Still)))


def stabilised(frames: UInt8, mode: Still, gap_frames: int) -> tuple[UInt8, str]:
    """A clip [T, H, W, 3] with its camera held still: [T, h, w, 3], and what was done in words, empty if nothing.

    Args:
        frames: the clip; not written to.
        mode: `shift` undoes the camera's shift, `turn` its turning in the picture's plane too.
        gap_frames: over which the camera must move for the clip to be touched at all, as `watch_camera` tells it: a
            large arm would else drag a camera at rest along by a pixel or two.
    """
    cuts = find_cuts(resize_square(frames, _CUT_PX))
    shot = np.searchsorted(cuts, np.arange(len(frames)), side="right")
    if not watch_camera(frames, gap_frames, shot).moves:
        return frames, ""
    poses, lost = _path(frames, mode, cuts.tolist())
    if lost > LOST_SHARE * len(frames):
        return frames, f"camera not held still: it could not be followed in {lost} of {len(frames)} frames"
    height, width = frames.shape[1:3]
    side = min(height, width)
    places = poses * (1.0, side, side)  # turn [rad], shift [px]
    matrices = np.stack([_back(pose, (height, width)) for pose in places])
    rows, columns = _border(matrices, (height, width))
    farthest = max(rows / height, columns / width)
    if farthest > FARTHEST:
        return frames, f"camera not held still: it moves by {farthest:.0%} of the picture, more than {FARTHEST:.0%}"
    cv2, out = opencv(), np.empty((len(frames), height - 2 * rows, width - 2 * columns, 3), np.uint8)
    words = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    for t, matrix in enumerate(matrices):
        whole = cv2.warpAffine(np.ascontiguousarray(frames[t]), matrix, (width, height), **words)
        out[t] = whole[rows : height - rows, columns : width - columns]
    return out, f"camera held still ({mode}): a border of {columns} x {rows} px is cut off"


def camera_path(frames: UInt8, mode: Still) -> tuple[Float64, int]:
    """Where the camera is at every frame, from the middle of its shot's path, and how many frames were lost.

    Poses are [T, 3]: turn [rad], and where the picture's middle of that path is, (x, y) in shares of its shorter side.
    """
    return _path(frames, mode, find_cuts(resize_square(frames, _CUT_PX)).tolist())


def _path(frames: UInt8, mode: Still, cuts: list[int]) -> tuple[Float64, int]:
    grey = small_grey(frames)
    poses, lost = np.zeros((len(frames), 3)), 0
    for first, last in zip([0, *cuts], [*cuts, len(frames)], strict=True):
        lost += _follow(grey[first:last], poses[first:last], mode)
        middle = np.median(poses[first:last], axis=0)
        for t in range(first, last):
            turn = poses[t, 0] - middle[0]
            poses[t] = turn, *(poses[t, 1:] - _turned(middle[1:], turn))
    return poses, lost


def _follow(grey: UInt8, poses: Float64, mode: Still) -> int:
    """Fill in the poses of one shot from its first frame on; returns how many frames were lost."""
    key, lost = 0, 0
    for t in range(1, len(grey)):
        motion = camera_motion(grey[key], grey[t], REST_PX)
        if not motion.known and key != t - 1:
            key = t - 1
            motion = camera_motion(grey[key], grey[t], REST_PX)
        if not motion.known:
            poses[t] = poses[t - 1]
            lost, key = lost + 1, t
            continue
        turn = motion.turn_rad if mode == "turn" else 0.0
        poses[t] = poses[key][0] + turn, *(_turned(poses[key][1:], turn) + motion.matrix[:, 2])
        if motion.way > KEY_WAY or motion.agree < KEY_AGREEMENT:
            key = t
    return lost


def _turned(place: Float64, turn_rad: float) -> Float64:
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    return np.array([cos * place[0] - sin * place[1], sin * place[0] + cos * place[1]])


def _back(pose: Float64, shape: tuple[int, int]) -> Float64:
    """Where a place of the held picture lies in the frame [2, 3], in pixels."""
    turn, x, y = pose
    middle = (np.array(shape[::-1], np.float64) - 1) / 2
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([matrix, middle - matrix @ middle + (x, y)])


def _border(matrices: Float64, shape: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns at each end are outside some frame."""
    height, width = shape
    corners = np.array([[x, y, 1.0] for x in (0, width - 1) for y in (0, height - 1)])
    off = np.abs(np.einsum("tij,cj->tci", matrices, corners) - corners[:, :2]).max((0, 1))
    return int(np.ceil(off[1] - 1e-6)), int(np.ceil(off[0] - 1e-6))
