"""The five bodies of the arms world and the one action space that they share. Numpy only.

A hand is told how far to go (metres and radians per step) and how far to open; joints are nobody's business but the
body's own, so that equal actions move every hand alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from cyclemimic.types import ActionSpace, Axis


@dataclass(frozen=True, kw_only=True)
class ArmBody:
    """One body of the arms world: its name, what it looks like, and how many joints move its hand."""

    name: str
    looks: str
    num_joints: int


ARMS_BODIES: tuple[ArmBody, ...] = (
    ArmBody(name="arm7", looks="white arm of round links", num_joints=7),
    ArmBody(name="arm6", looks="orange industrial arm of thick boxes", num_joints=6),
    ArmBody(name="arm5", looks="yellow desk arm of thin struts", num_joints=5),
    ArmBody(name="scara", looks="blue SCARA: two level links and a quill", num_joints=4),
    ArmBody(name="gantry", looks="grey gantry: a beam, a carriage and a column", num_joints=4),
)

# x leads away from the camera, y to the left of the picture, z up; the gripper's number is a target, not a change.
ARMS_ACTION_SPACE = ActionSpace(
    name="arms",
    axes=(
        Axis(name="x_m", unit="m", low=-0.025, high=0.025, kind="delta"),
        Axis(name="y_m", unit="m", low=-0.025, high=0.025, kind="delta"),
        Axis(name="z_m", unit="m", low=-0.025, high=0.025, kind="delta"),
        Axis(name="yaw", unit="rad", low=-0.25, high=0.25, kind="delta"),
        Axis(name="gripper", unit="fraction", low=0.0, high=1.0),
    ),
    rate_hz=5.0,
)

# The limits are those of the box in which the hand's target is kept.
ARMS_PROPRIOCEPTION: tuple[Axis, ...] = (
    Axis(name="tip_x_m", unit="m", low=-0.22, high=0.19),
    Axis(name="tip_y_m", unit="m", low=-0.21, high=0.21),
    Axis(name="tip_z_m", unit="m", low=0.012, high=0.24),
    Axis(name="tip_yaw", unit="rad", low=-1.2, high=1.2),
    Axis(name="opening", unit="fraction", low=0.0, high=1.0),
)
