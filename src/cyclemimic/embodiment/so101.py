"""The SO-101 desk arm: six joints told where to be, thirty times a second, seen by two cameras. Numpy only.

Angles are radians from the middle of each joint's range, and the gripper's number is its opening from closed (0) to
open (1); a data source converts degrees and percent before they come here.
"""

from __future__ import annotations

from cyclemimic.types import ActionSpace, Axis, CameraSpec

# The arm joints' limits are those of the maker's own description of the arm (SO-ARM100 repository, SO101, its newer
# calibration, whose zero is the middle of the range).
SO101_JOINTS: tuple[Axis, ...] = (
    Axis(name="shoulder_pan", unit="rad", low=-1.91986, high=1.91986),
    Axis(name="shoulder_lift", unit="rad", low=-1.74533, high=1.74533),
    Axis(name="elbow_flex", unit="rad", low=-1.69, high=1.69),
    Axis(name="wrist_flex", unit="rad", low=-1.65806, high=1.65806),
    Axis(name="wrist_roll", unit="rad", low=-2.74385, high=2.84121),
    Axis(name="gripper", unit="fraction", low=0.0, high=1.0),
)

SO101_ACTION_SPACE = ActionSpace(name="so101", axes=SO101_JOINTS, rate_hz=30.0, kind="joints")

# Proprioception is where the joints are, in the order in which actions say where they shall be.
SO101_PROPRIOCEPTION: tuple[Axis, ...] = SO101_JOINTS

SO101_CAMERAS: tuple[CameraSpec, ...] = (
    CameraSpec(name="front", height_px=480, width_px=640),
    CameraSpec(name="wrist", height_px=480, width_px=640),
)
