"""The MuJoCo scene of the arms world: a table, two cubes, at most one fixture, one of five bodies. Primitives only.

World axes as the camera sees them: x leads away, y to the left, z up; the table's top is z = 0.
Engineering; sizes and masses are ours.
"""

from __future__ import annotations

import math

from cyclemimic.worlds.arms_bodies import BODIES, Body

CUBE_HALF_M = 0.025
FINGER_TRAVEL_M = 0.04  # of each finger
CAMERA_NAME = "front"
CAMERA_LOOK_AT_M = (0.07, 0.0, 0.055)
CAMERA_DISTANCE_M = 0.84
CAMERA_PITCH_RAD = math.radians(41.0)
CAMERA_FOV_DEG = 33.0
TRAY_HALF_M = 0.06
BUTTON_TOP_M = 0.04
DRAWER_TRAVEL_M = 0.11
HANDLE_OFFSET_M = 0.046  # from the front of the closed drawer to the middle of its handle, towards the camera
FIXTURES = ("none", "tray", "button", "drawer")

# Who may touch whom: hands touch objects, objects touch objects, a drawer touches hands only, links touch nothing.
_HAND, _OBJECT = 'contype="1" conaffinity="0"', 'contype="2" conaffinity="3"'
_HANDS_ONLY, _GHOST = 'contype="0" conaffinity="1"', 'contype="0" conaffinity="0"'


def _hand_xml(body: Body) -> str:
    """Palm and two fingers; the point between the finger ends is the site 'tip', 11 cm below the last joint."""
    finger = (
        '<body name="finger_{side}" pos="0 {y} -.08" gravcomp="1">'
        '<joint name="finger_{side}" type="slide" axis="0 {sign} 0" range="0 {travel}" damping="4" armature=".05"/>'
        '<geom type="box" size=".011 .006 .03" density="600" rgba=".10 .10 .11 1" friction="1.6 .03 .001" '
        f'condim="4" priority="1" {_HAND}/></body>'
    )
    left = finger.format(side="left", y=0.006, sign=1, travel=FINGER_TRAVEL_M)
    right = finger.format(side="right", y=-0.006, sign=-1, travel=FINGER_TRAVEL_M)
    palm = f'<geom {body.palm} rgba="{body.hand_colour}" density="300" {_HAND}/>'
    return f'{palm}<site name="tip" pos="0 0 -.11" size=".002"/>{left}{right}'


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _coloured(shape: str, colour: str) -> str:
    return shape if "rgba" in shape else f'{shape} rgba="{colour}"'


def _arm_xml(body: Body) -> tuple[str, str]:
    """The body's MJCF and its actuators: arm joints 'j0', 'j1' ... in order, then the two fingers."""
    inner, actuators = _hand_xml(body), ""
    for index in reversed(range(len(body.links))):
        link = body.links[index]
        kind, armature = ("slide", 1.0) if link.slides else ("hinge", 0.15)
        shapes = "".join(f'<geom {_coloured(s, body.colour)} density="250" {_GHOST}/>' for s in link.shapes)
        limits = _numbers(link.limits)
        inner = (
            f'<body pos="{_numbers(link.offset_m)}" gravcomp="1">'
            f'<joint name="j{index}" type="{kind}" axis="{link.axis}" '
            f'range="{limits}" armature="{armature}" damping="1"/>{shapes}{inner}</body>'
        )
        gains = 'kp="6000" kv="220"' if link.slides else 'kp="2000" kv="55"'
        actuators = f'<position name="j{index}" joint="j{index}" ctrlrange="{limits}" {gains}/>' + actuators
    for side in ("left", "right"):
        actuators += (
            f'<position name="finger_{side}" joint="finger_{side}" ctrlrange="-.01 {FINGER_TRAVEL_M}" kp="900" kv="15" '
            'forcerange="-14 14"/>'
        )
    foot = "".join(f"<geom {_coloured(s, body.colour)} {_GHOST}/>" for s in body.foot)
    return f'<body name="foot" pos="{_numbers(body.foot_m)}">{foot}{inner}</body>', actuators


def _fixture_xml(fixture: str) -> str:
    """The thing on the table that some skills need; its body 'fixture' is placed at reset."""
    if fixture == "none":
        return ""
    if fixture == "tray":
        r, wall = TRAY_HALF_M, 'rgba=".45 .25 .55 1" friction=".6"'
        inner = f'<geom type="box" size="{r} {r} .003" pos="0 0 .003" rgba=".62 .45 .70 1" friction=".6" {_OBJECT}/>'
        for x, y, size in (
            (r, 0, f".004 {r}"),
            (-r, 0, f".004 {r}"),
            (0, r, f"{r} .004"),
            (0, -r, f"{r} .004"),
        ):
            inner += f'<geom type="box" size="{size} .009" pos="{x} {y} .009" {wall} {_OBJECT}/>'
    elif fixture == "button":
        inner = (
            f'<geom type="cylinder" size=".038 .009" pos="0 0 .009" rgba=".12 .12 .14 1" {_OBJECT}/>'
            f'<body name="cap" pos="0 0 {BUTTON_TOP_M - 0.012}" gravcomp="1">'
            '<joint name="cap" type="slide" axis="0 0 1" '
            'range="-.014 0" stiffness="250" springref=".004" damping="4" armature=".05"/>'
            f'<geom type="cylinder" size=".026 .012" density="500" rgba=".95 .25 .65 1" {_HANDS_ONLY}/></body>'
        )
    else:
        wood, front = 'rgba=".33 .22 .16 1"', 'rgba=".78 .62 .40 1"'
        inner = (
            f'<geom type="box" size=".055 .075 .03" pos=".06 0 .032" {wood} {_OBJECT}/>'
            '<body name="drawer" gravcomp="1"><joint name="drawer" type="slide" axis="-1 0 0" '
            f'range="0 {DRAWER_TRAVEL_M}" damping="3" frictionloss=".6" armature=".2"/>'
            f'<geom type="box" size=".005 .07 .024" pos="0 0 .03" density="300" {front} {_HANDS_ONLY}/>'
            f'<geom type="box" size=".05 .06 .006" pos=".05 0 .012" density="300" {front} {_GHOST}/>'
            f'<geom type="box" size=".005 .045 .010" pos="-{HANDLE_OFFSET_M} 0 .035" density="300" '
            f'rgba=".9 .9 .92 1" {_HANDS_ONLY}/>'
        )
        for y in (0.043, -0.043):
            inner += (
                f'<geom type="box" size="{HANDLE_OFFSET_M / 2} .004 .006" pos="-{HANDLE_OFFSET_M / 2} {y} .035" '
                f'density="300" rgba=".9 .9 .92 1" {_GHOST}/>'
            )
        inner += "</body>"
    return f'<body name="fixture">{inner}</body>'


def camera_frame(
    *, pan_rad: float = 0.0, pitch_rad: float = CAMERA_PITCH_RAD, distance_m: float = CAMERA_DISTANCE_M
) -> tuple[tuple[float, float, float], tuple[float, ...]]:
    """The camera's place [m] and its picture's axes: three numbers to the right, three up.

    It looks at one point from `distance_m`, `pitch_rad` above the table, turned about the vertical by `pan_rad`.
    """
    s, c = math.sin(pitch_rad), math.cos(pitch_rad)
    sin, cos = math.sin(pan_rad), math.cos(pan_rad)
    x, y, z = CAMERA_LOOK_AT_M
    place = (x - distance_m * c * cos, y - distance_m * c * sin, z + distance_m * s)
    return place, (sin, -cos, 0.0, s * cos, s * sin, c)


def scene_xml(body_name: str, fixture: str, size_px: int) -> str:
    """MJCF of one body at the table with one of FIXTURES. Cubes are bodies 'cube' (the task's) and 'other'."""
    arm, actuators = _arm_xml(BODIES[body_name])
    place, axes = camera_frame()
    cubes = "".join(
        f'<body name="{name}" pos="0 {y} {CUBE_HALF_M}"><freejoint name="{name}"/><geom name="{name}" type="box" '
        f'size="{CUBE_HALF_M} {CUBE_HALF_M} {CUBE_HALF_M}" mass=".08" friction=".5 .005 .0001" {_OBJECT}/></body>'
        for name, y in (("cube", 0.08), ("other", -0.08))
    )
    return f"""<mujoco model="arms">
<compiler angle="radian" autolimits="true"/>
<option timestep=".005" integrator="implicitfast" cone="elliptic" impratio="10"/>
<visual><global offwidth="{size_px}" offheight="{size_px}"/><quality offsamples="0"/>
<headlight ambient=".45 .45 .45" diffuse=".55 .55 .55" specular="0 0 0"/></visual>
<worldbody>
<camera name="{CAMERA_NAME}" pos="{_numbers(place)}" xyaxes="{_numbers(axes)}" fovy="{CAMERA_FOV_DEG}"/>
<geom name="table" type="box" size=".55 .42 .02" pos=".05 0 -.02" rgba=".60 .52 .43 1" friction=".5" {_OBJECT}/>
{arm}{cubes}{_fixture_xml(fixture)}
</worldbody>
<actuator>{actuators}</actuator>
</mujoco>"""
