"""How the five bodies of the arms world are built: joints, link lengths, shapes and colours.

In each body's zero posture its hand points down and all link frames are parallel to the world, so a hand's rotation
is its yaw. The numbers are ours and describe no product. Engineering.
"""

from __future__ import annotations

from dataclasses import dataclass


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
                shapes=('type="box" size=".045 .045 .032" pos=".015 0 .008" rgba=".35 .10 .12 1"',),
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
