"""The MuJoCo scene of the arms world: a table, two cubes, at most one fixture, one of five bodies. Primitives only.

World axes as the camera sees them: x leads away, y to the left, z up; the table's top is z = 0. In each body's zero
posture its hand points down and all link frames are parallel to the world, so a hand's rotation is its yaw.
Engineering; sizes and masses are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Link:
    """One joint and what hangs on it. `offset_m` is from the parent's frame; `shapes` are MJCF geom attributes."""

    axis: str
    offset_m: tuple[float, float, float]
    limits: tuple[float, float]
    shapes: tuple[str, ...]
    slides: bool = False


@dataclass(frozen=True, kw_only=True)
class Body:
    """A chain of links that ends in a hand. `foot` are shapes that do not move."""

    colour: str
    hand_colour: str
    foot_m: tuple[float, float, float]
    foot: tuple[str, ...]
    links: tuple[Link, ...]
    palm: str


_DARK = 'rgba=".16 .17 .19 1"'
_UPPER_M, _FORE_M = 0.345, 0.345

BODIES: dict[str, Body] = {
    "arm7": Body(
        colour=".93 .93 .90 1",
        hand_colour=".80 .82 .84 1",
        foot_m=(0.42, 0.0, 0.0),
        foot=(
            'type="cylinder" size=".075 .03" pos="0 0 .03"',
            'type="cylinder" size=".05 .08" pos="0 0 .12"',
        ),
        links=(
            Link(axis="0 0 1", offset_m=(0, 0, 0.22), limits=(-2.6, 2.6), shapes=('type="sphere" size=".058"',)),
            Link(
                axis="0 1 0",
                offset_m=(0, 0, 0.03),
                limits=(-2.0, 2.0),
                shapes=('type="capsule" size=".043" fromto="0 0 0 0 0 .17"',),
            ),
            Link(
                axis="0 0 1",
                offset_m=(0, 0, 0.17),
                limits=(-2.6, 2.6),
                shapes=(
                    'type="capsule" size=".038" fromto="0 0 0 0 0 .16"',
                    f'type="cylinder" size=".044 .014" {_DARK}',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(0, 0, _UPPER_M - 0.17),
                limits=(-1.2, 1.6),
                shapes=('type="sphere" size=".052"', 'type="capsule" size=".036" fromto="0 0 0 -.17 0 0"'),
            ),
            Link(
                axis="1 0 0",
                offset_m=(-0.17, 0, 0),
                limits=(-2.6, 2.6),
                shapes=(
                    'type="capsule" size=".032" fromto="0 0 0 -.175 0 0"',
                    f'type="cylinder" size=".039 .014" euler="0 1.5708 0" {_DARK}',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(-_FORE_M + 0.17, 0, 0),
                limits=(-2.2, 2.2),
                shapes=('type="sphere" size=".043"',),
            ),
            Link(
                axis="0 0 1",
                offset_m=(0, 0, -0.05),
                limits=(-2.9, 2.9),
                shapes=('type="cylinder" size=".033 .02" pos="0 0 .02"',),
            ),
        ),
        palm='type="capsule" size=".022" fromto="0 -.035 -.025 0 .035 -.025"',
    ),
    "arm6": Body(
        colour=".95 .42 .06 1",
        hand_colour=".30 .30 .32 1",
        foot_m=(0.42, 0.0, 0.0),
        foot=('type="box" size=".085 .085 .05" pos="0 0 .05" rgba=".2 .2 .22 1"',),
        links=(
            Link(
                axis="0 0 1",
                offset_m=(0, 0, 0.10),
                limits=(-2.6, 2.6),
                shapes=(
                    'type="cylinder" size=".07 .06" pos="0 0 .06"',
                    'type="box" size=".045 .06 .05" pos="0 0 .15"',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(0, 0, 0.15),
                limits=(-2.0, 2.0),
                shapes=(
                    'type="box" size=".045 .03 .17" pos="0 0 .17"',
                    f'type="cylinder" size=".05 .065" euler="1.5708 0 0" {_DARK}',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(0, 0, _UPPER_M),
                limits=(-1.2, 1.6),
                shapes=(
                    'type="box" size=".09 .04 .05" pos="-.03 0 0"',
                    f'type="cylinder" size=".045 .055" euler="1.5708 0 0" {_DARK}',
                ),
            ),
            Link(
                axis="1 0 0",
                offset_m=(-0.12, 0, 0),
                limits=(-2.6, 2.6),
                shapes=('type="box" size=".11 .034 .034" pos="-.11 0 0"',),
            ),
            Link(
                axis="0 1 0",
                offset_m=(-_FORE_M + 0.12, 0, 0),
                limits=(-2.2, 2.2),
                shapes=('type="box" size=".035 .035 .035"',),
            ),
            Link(
                axis="0 0 1",
                offset_m=(0, 0, -0.05),
                limits=(-2.9, 2.9),
                shapes=(f'type="box" size=".03 .03 .02" pos="0 0 .015" {_DARK}',),
            ),
        ),
        palm='type="box" size=".026 .055 .022" pos="0 0 -.025"',
    ),
    "arm5": Body(
        colour=".97 .83 .10 1",
        hand_colour=".97 .83 .10 1",
        foot_m=(0.38, 0.13, 0.0),
        foot=('type="box" size=".07 .07 .012" pos="0 0 .012" rgba=".12 .12 .12 1"',),
        links=(
            Link(
                axis="0 0 1",
                offset_m=(0, 0, 0.03),
                limits=(-2.6, 2.6),
                shapes=(
                    'type="cylinder" size=".045 .03" pos="0 0 .02"',
                    'type="box" size=".02 .03 .05" pos="0 0 .09"',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(0, 0, 0.12),
                limits=(-2.0, 2.0),
                shapes=(
                    'type="box" size=".012 .006 .185" pos="0 .022 .185"',
                    'type="box" size=".012 .006 .185" pos="0 -.022 .185"',
                    f'type="cylinder" size=".02 .034" euler="1.5708 0 0" {_DARK}',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(0, 0, 0.37),
                limits=(-1.3, 1.7),
                shapes=(
                    'type="box" size=".185 .014 .012" pos="-.185 0 0"',
                    f'type="cylinder" size=".02 .034" euler="1.5708 0 0" {_DARK}',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(-0.37, 0, 0),
                limits=(-2.4, 2.4),
                shapes=(
                    f'type="cylinder" size=".018 .03" euler="1.5708 0 0" {_DARK}',
                    'type="box" size=".013 .013 .03" pos="0 0 -.02"',
                ),
            ),
            Link(
                axis="0 0 1",
                offset_m=(0, 0, -0.05),
                limits=(-2.9, 2.9),
                shapes=(f'type="cylinder" size=".018 .015" {_DARK}',),
            ),
        ),
        palm='type="box" size=".014 .050 .012" pos="0 0 -.035"',
    ),
    "scara": Body(
        colour=".10 .55 .85 1",
        hand_colour=".85 .88 .90 1",
        foot_m=(0.40, -0.05, 0.0),
        foot=('type="cylinder" size=".06 .14" pos="0 0 .14"',),
        links=(
            Link(
                axis="0 0 1",
                offset_m=(0, 0, 0.30),
                limits=(-2.6, 2.6),
                shapes=('type="box" size=".19 .05 .028" pos="-.16 0 0"', 'type="cylinder" size=".062 .032"'),
            ),
            Link(
                axis="0 0 1",
                offset_m=(-0.35, 0, 0),
                limits=(-2.75, 2.75),
                shapes=(
                    'type="box" size=".185 .04 .022" pos="-.165 0 .05"',
                    'type="cylinder" size=".05 .055" pos="0 0 .02" rgba=".85 .88 .90 1"',
                ),
            ),
            Link(
                axis="0 0 1",
                offset_m=(-0.34, 0, -0.06),
                limits=(-0.30, 0.20),
                slides=True,
                shapes=('type="cylinder" size=".016 .10" pos="0 0 .06" rgba=".85 .88 .90 1"',),
            ),
            Link(
                axis="0 0 1",
                offset_m=(0, 0, -0.04),
                limits=(-6.0, 6.0),
                shapes=('type="cylinder" size=".03 .012"',),
            ),
        ),
        palm='type="cylinder" size=".046 .014" pos="0 0 -.03"',
    ),
    "gantry": Body(
        colour=".58 .60 .63 1",
        hand_colour=".35 .10 .12 1",
        foot_m=(0.0, 0.0, 0.0),
        foot=(),
        links=(
            Link(
                axis="1 0 0",
                offset_m=(0, 0, 0.27),
                limits=(-0.3, 0.3),
                slides=True,
                shapes=(
                    'type="box" size=".022 .36 .028" pos=".06 0 0"',
                    'type="box" size=".03 .02 .13" pos=".06 .35 -.13"',
                    'type="box" size=".03 .02 .13" pos=".06 -.35 -.13"',
                ),
            ),
            Link(
                axis="0 1 0",
                offset_m=(0, 0, 0),
                limits=(-0.3, 0.3),
                slides=True,
                shapes=('type="box" size=".045 .045 .04" pos=".01 0 0" rgba=".35 .10 .12 1"',),
            ),
            Link(
                axis="0 0 1",
                offset_m=(0, 0, -0.09),
                limits=(-0.12, 0.2),
                slides=True,
                shapes=('type="box" size=".016 .016 .16" pos="0 0 .14"',),
            ),
            Link(
                axis="0 0 1",
                offset_m=(0, 0, -0.03),
                limits=(-2.9, 2.9),
                shapes=('type="box" size=".024 .024 .012"',),
            ),
        ),
        palm='type="box" size=".020 .058 .010" pos="0 0 -.035"',
    ),
}


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
            f'<body pos="{_numbers(link.offset_m)}" gravcomp="1"><joint name="j{index}" type="{kind}" axis="{link.axis}" '
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
            f'<geom type="cylinder" size=".038 .012" pos="0 0 .012" rgba=".12 .12 .14 1" {_OBJECT}/>'
            f'<body name="cap" pos="0 0 {BUTTON_TOP_M - 0.012}" gravcomp="1"><joint name="cap" type="slide" axis="0 0 1" '
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


def camera_frame() -> tuple[tuple[float, float, float], tuple[float, ...]]:
    """The camera's place [m] and its picture's axes: three numbers to the right, three up."""
    s, c = math.sin(CAMERA_PITCH_RAD), math.cos(CAMERA_PITCH_RAD)
    x, y, z = CAMERA_LOOK_AT_M
    return (x - CAMERA_DISTANCE_M * c, y, z + CAMERA_DISTANCE_M * s), (0.0, -1.0, 0.0, s, 0.0, c)


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
