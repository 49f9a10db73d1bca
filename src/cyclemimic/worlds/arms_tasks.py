"""What can be asked of the arms world: the skills, their sentences, how they start and when they are done.

Engineering, after the settings of tabletop benchmarks: small steps, tolerances of centimetres, success at any step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.randomness import rng_for
from cyclemimic.worlds.arms_scene import CUBE_HALF_M, TRAY_HALF_M

Floats = NDArray[np.float64]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.12, 0.16, 0.82),
}
# As the camera sees it: x leads away, y to the left.
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (0.0, 1.0),
    "right": (0.0, -1.0),
    "forward": (1.0, 0.0),
    "back": (-1.0, 0.0),
}
OPPOSITE = {"left": "right", "right": "left", "forward": "back", "back": "forward"}
_REGION_HALF_M = 0.12  # cubes start within 24 x 24 cm around the origin
_APART_M = 0.10
_LANE_HALF_M = 0.075  # no other cube this near to the path of a push or of a drawer
WANDER_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Skill:
    """A skill's sentence ('{colour}' is filled in), the fixture it needs, and how many steps it may take."""

    sentence: str
    max_steps: int
    fixture: str = "none"


SKILLS: dict[str, Skill] = {
    "reach": Skill(sentence="reach the {colour} cube", max_steps=24),
    "push_left": Skill(sentence="push the {colour} cube left", max_steps=24),
    "push_right": Skill(sentence="push the {colour} cube right", max_steps=24),
    "push_forward": Skill(sentence="push the {colour} cube forward", max_steps=24),
    "push_back": Skill(sentence="push the {colour} cube back", max_steps=24),
    "lift": Skill(sentence="lift the {colour} cube", max_steps=32),
    "place_in_tray": Skill(sentence="place the {colour} cube in the tray", max_steps=48, fixture="tray"),
    "press_button": Skill(sentence="press the button", max_steps=32, fixture="button"),
    "open_drawer": Skill(sentence="open the drawer", max_steps=36, fixture="drawer"),
    "close_drawer": Skill(sentence="close the drawer", max_steps=36, fixture="drawer"),
    # Motion for film, not a test of anything: done when its time is over.
    "wander": Skill(sentence="move around", max_steps=WANDER_STEPS),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a task starts; depends on skill and seed alone, so that all bodies start alike. Metres and radians."""

    colour: str
    other_colour: str
    cube_m: Floats  # [2] x, y
    other_m: Floats  # [2]
    cube_yaw_rad: float
    other_yaw_rad: float
    fixture_m: Floats  # [2]
    drawer_m: float
    hand_m: Floats  # [3] x, y, z of the tip


@dataclass(frozen=True, kw_only=True)
class View:
    """What is true in the world now; experts and success read it. Metres, radians, fraction."""

    tip_m: Floats  # [3]
    yaw_rad: float
    opening: float
    target_m: Floats  # [3], where the hand was last told to be
    target_yaw_rad: float
    cube_m: Floats  # [3]
    cube_yaw_rad: float
    other_m: Floats  # [3]
    fixture_m: Floats  # [2]
    fixture_joint_m: float  # how far the drawer is open, or the cap of the button moved (negative: down)
    steps: int


def find_skill(name: str) -> Skill:
    """The skill of that name. Raises InputError that proposes the nearest one."""
    if name not in SKILLS:
        raise InputError(
            "skill", expected="a skill of the arms world", got=repr(name), remedy=did_you_mean(name, SKILLS)
        )
    return SKILLS[name]


def push_direction(skill: str) -> Floats:
    """Unit vector [2] (x, y) of a push skill such as 'push_left'."""
    return np.array(DIRECTIONS[skill.removeprefix("push_")])


def instruction_for(skill: str, colour: str) -> str:
    """The sentence of a skill about the cube of that colour. Raises InputError for unknown words."""
    spec = find_skill(skill)
    if colour not in COLOURS:
        raise InputError("colour", expected="a cube's colour", got=repr(colour), remedy=did_you_mean(colour, COLOURS))
    return spec.sentence.format(colour=colour)


def swapped_instruction_for(skill: str, seed: int) -> str:
    """A sentence that asks for something else than the task (skill, seed) does, for evaluation's control.

    The other cube's colour wherever the task names a colour; for pushes the opposite direction as well; the opposite
    for the drawer; another skill for the rest.
    """
    layout = layout_for(skill, seed)
    if skill.startswith("push_"):
        other = f"push_{OPPOSITE[skill.removeprefix('push_')]}"
    else:
        other = {
            "open_drawer": "close_drawer",
            "close_drawer": "open_drawer",
            "press_button": "reach",
            "wander": "reach",
        }.get(skill, skill)
    return instruction_for(other, layout.other_colour)


def _from_segment_m(point: Floats, start: Floats, end: Floats) -> float:
    """Distance of a point from a segment."""
    along = end - start
    where = np.clip((point - start) @ along / max(float(along @ along), 1e-9), 0.0, 1.0)
    return float(np.linalg.norm(point - start - where * along))


def _is_clear(skill: str, cube: Floats, other: Floats, fixture: Floats, drawer_m: float) -> bool:
    """Whether two cubes and a fixture may start there: apart, and out of the way of what is to be done."""
    if np.linalg.norm(cube - other) < _APART_M:
        return False
    kind = SKILLS[skill].fixture
    if kind == "drawer":
        # From behind the cabinet to where the hand stands in front of the open handle.
        behind = fixture + np.array([0.11, 0.0])
        before = fixture - np.array([0.21 if drawer_m else 0.18, 0.0])
        nearest = min(_from_segment_m(c, behind, before) for c in (cube, other))
        return nearest > 0.12
    if kind != "none" and min(np.linalg.norm(cube - fixture), np.linalg.norm(other - fixture)) < 0.135:
        return False
    if not skill.startswith("push_"):
        return True
    way = push_direction(skill)
    return _from_segment_m(other, cube - 0.09 * way, cube + 0.11 * way) > _LANE_HALF_M


def _draw_fixture(kind: str, rng: np.random.Generator) -> Floats:
    """Where the fixture stands [2]."""
    if kind == "tray":
        return np.array([rng.uniform(-0.10, 0.08), rng.choice((-1.0, 1.0)) * rng.uniform(0.10, 0.13)])
    if kind == "drawer":
        return np.array([rng.uniform(0.07, 0.11), rng.uniform(-0.09, 0.09)])
    return rng.uniform(-_REGION_HALF_M, _REGION_HALF_M, 2)


def layout_for(skill: str, seed: int) -> Layout:
    """The start of the task (skill, seed), the same for every body. Raises InputError for a bad skill."""
    spec = find_skill(skill)
    rng = rng_for(seed, 0, f"arms/{skill}")
    colour, other_colour = (str(c) for c in rng.permutation(list(COLOURS))[:2])
    yaws = rng.uniform(-0.2, 0.2, 2)
    hand = np.array([*rng.uniform(-0.07, 0.07, 2), rng.uniform(0.12, 0.15)])
    drawer_m = float(rng.uniform(0.07, 0.10)) if skill == "close_drawer" else 0.0
    while True:
        fixture = _draw_fixture(spec.fixture, rng)
        half = 0.17 if spec.fixture == "drawer" else _REGION_HALF_M  # a drawer needs the middle for itself
        cube, other = rng.uniform(-half, half, 2), rng.uniform(-half, half, 2)
        if _is_clear(skill, cube, other, fixture, drawer_m):
            break
    return Layout(
        colour=colour,
        other_colour=other_colour,
        cube_m=cube,
        other_m=other,
        cube_yaw_rad=float(yaws[0]),
        other_yaw_rad=float(yaws[1]),
        fixture_m=fixture,
        drawer_m=drawer_m,
        hand_m=hand,
    )


def is_done(skill: str, view: View, layout: Layout) -> bool:
    """Whether the task is solved in this moment."""
    if skill == "reach":
        return bool(np.linalg.norm(view.tip_m - view.cube_m - (0.0, 0.0, CUBE_HALF_M)) < 0.03)
    if skill.startswith("push_"):
        way, moved = push_direction(skill), view.cube_m[:2] - layout.cube_m
        along, aside = float(moved @ way), abs(float(moved[0] * way[1] - moved[1] * way[0]))
        return along >= 0.05 and aside < along
    if skill == "lift":
        return bool(view.cube_m[2] > CUBE_HALF_M + 0.04)
    if skill == "place_in_tray":
        inside = np.abs(view.cube_m[:2] - view.fixture_m).max() < TRAY_HALF_M - 0.01
        return bool(inside and view.cube_m[2] < 0.05 and view.opening > 0.72)
    if skill == "press_button":
        return view.fixture_joint_m < -0.008
    if skill == "open_drawer":
        return view.fixture_joint_m > 0.06
    if skill == "close_drawer":
        return view.fixture_joint_m < 0.01
    return view.steps >= WANDER_STEPS
