"""Scripted experts of the arms world. Each is a rule from the present view to the next goal of the hand.

No expert keeps a memory: a phase is read off the geometry, so a restored world goes on as before and an expert
recovers from whatever happened. Engineering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cyclemimic.embodiment.arms import ARMS_ACTION_SPACE
from cyclemimic.randomness import rng_for
from cyclemimic.types import Float32
from cyclemimic.worlds.arms_scene import BUTTON_TOP_M, CUBE_HALF_M, HANDLE_OFFSET_M
from cyclemimic.worlds.arms_tasks import WANDER_STEPS, Floats, View, push_direction

_TRAVEL_M = 0.078  # fingers clear a cube
_HOLDING = 0.70  # fingers that are told to close and stand nearer than this hold a 5 cm cube (0.625)
_WAYPOINT_STEPS = 4
_AWAY = np.array([1.0, 0.0, 0.0])  # from the camera


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Where the hand should be: tip [3] in metres, yaw in radians, opening as a fraction."""

    tip_m: Floats
    opening: float
    yaw_rad: float = 0.0


def _at(xy: Floats, z: float) -> Floats:
    return np.array([xy[0], xy[1], z])


def _off_m(view: View, xy: Floats) -> float:
    """How far the tip is from being over `xy`."""
    return float(np.linalg.norm(view.tip_m[:2] - xy))


def _come_down_at(
    view: View, xy: Floats, z: float, opening: float, travel_m: float = _TRAVEL_M, yaw: float = 0.0
) -> Goal:
    """Go to a place from above: rise if low and elsewhere, travel, then descend."""
    off = _off_m(view, xy)
    if off < 0.012:
        return Goal(tip_m=_at(xy, z), opening=opening, yaw_rad=yaw)
    if view.tip_m[2] < travel_m - 0.02 and off > 0.03:
        return Goal(tip_m=_at(view.target_m[:2], travel_m), opening=opening, yaw_rad=yaw)
    return Goal(tip_m=_at(xy, travel_m), opening=opening, yaw_rad=yaw)


def _reach(view: View) -> Goal:
    return Goal(tip_m=_at(view.cube_m[:2], view.cube_m[2] + CUBE_HALF_M + 0.01), opening=0.5)


def _push(way: Floats) -> Callable[[View], Goal]:
    """Come down behind the cube with closed fingers, then go through it, kept on its middle line."""
    side = np.array([-way[1], way[0]])

    def goal(view: View) -> Goal:
        rel = view.tip_m[:2] - view.cube_m[:2]
        along, aside = float(rel @ way), float(rel @ side)
        if view.tip_m[2] < 0.045 and along < -0.02 and abs(aside) < 0.02:
            ahead = view.target_m[:2] + 0.025 * way
            return Goal(tip_m=_at(ahead - np.clip(aside, -0.01, 0.01) * side, 0.022), opening=0.0)
        return _come_down_at(view, view.cube_m[:2] - 0.056 * way, 0.022, 0.0)

    return goal


def _grasp_yaw_rad(view: View) -> float:
    """The nearest yaw whose fingers close on two faces of the cube."""
    return float((view.cube_yaw_rad + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _holds(view: View) -> bool:
    return view.opening < _HOLDING and float(np.linalg.norm(view.tip_m - view.cube_m)) < 0.025


def _grasp(view: View) -> Goal:
    """Open above the cube, come down over it, close."""
    yaw = _grasp_yaw_rad(view)
    if view.tip_m[2] < 0.032 and _off_m(view, view.cube_m[:2]) < 0.014:
        return Goal(tip_m=view.target_m, opening=0.0, yaw_rad=view.target_yaw_rad)
    return _come_down_at(view, view.cube_m[:2], 0.02, 1.0, yaw=yaw)


def _lift(view: View) -> Goal:
    if not _holds(view):
        return _grasp(view)
    return Goal(tip_m=_at(view.target_m[:2], 0.12), opening=0.0, yaw_rad=view.target_yaw_rad)


def _place(view: View) -> Goal:
    over_tray = _off_m(view, view.fixture_m) < 0.015
    if over_tray and view.tip_m[2] < 0.05:
        return Goal(tip_m=view.target_m, opening=1.0, yaw_rad=view.target_yaw_rad)
    if not _holds(view):
        return _grasp(view)
    if over_tray:
        return Goal(tip_m=_at(view.fixture_m, 0.034), opening=0.0, yaw_rad=view.target_yaw_rad)
    rising = view.tip_m[2] < 0.065
    xy = view.target_m[:2] if rising else view.fixture_m
    return Goal(tip_m=_at(xy, 0.085), opening=0.0, yaw_rad=view.target_yaw_rad)


def _press(view: View) -> Goal:
    return _come_down_at(view, view.fixture_m, BUTTON_TOP_M - 0.02, 0.0, travel_m=0.07)


def _handle_xy(view: View) -> Floats:
    return view.fixture_m - (HANDLE_OFFSET_M + view.fixture_joint_m) * _AWAY[:2]


def _open_drawer(view: View) -> Goal:
    """Hook closed fingers behind the handle and pull towards the camera."""
    gap = _handle_xy(view) + HANDLE_OFFSET_M / 2 * _AWAY[:2]
    hooked = view.tip_m[2] < 0.045 and abs(view.tip_m[1] - gap[1]) < 0.03 and abs(view.tip_m[0] - gap[0]) < 0.022
    if hooked:
        return Goal(tip_m=view.target_m - 0.025 * _AWAY, opening=0.0)
    return _come_down_at(view, gap, 0.03, 0.0, travel_m=0.09)


def _close_drawer(view: View) -> Goal:
    """Come down in front of the handle and push it away from the camera."""
    handle = _handle_xy(view)
    before = handle[0] - view.tip_m[0]
    if view.tip_m[2] < 0.05 and 0.0 < before < 0.07 and abs(view.tip_m[1] - handle[1]) < 0.03:
        return Goal(tip_m=view.target_m + 0.025 * _AWAY, opening=0.0)
    return _come_down_at(view, handle - 0.045 * _AWAY[:2], 0.033, 0.0)


_RULES: dict[str, Callable[[View], Goal]] = {
    "reach": _reach,
    "lift": _lift,
    "place_in_tray": _place,
    "press_button": _press,
    "open_drawer": _open_drawer,
    "close_drawer": _close_drawer,
}


def _wander(view: View, seed: int) -> Float32:
    """An even walk through random places, four steps to each; the places are drawn from the task's seed."""
    rng = rng_for(seed, 0, "arms/wander/path")
    count = WANDER_STEPS // _WAYPOINT_STEPS
    places = rng.uniform((-0.13, -0.15, 0.03, -0.6, 0.0), (0.13, 0.15, 0.16, 0.6, 1.0), (count, 5))
    place = places[min(view.steps // _WAYPOINT_STEPS, count - 1)]
    left = _WAYPOINT_STEPS - view.steps % _WAYPOINT_STEPS
    action = np.array([*(place[:3] - view.target_m), place[3] - view.target_yaw_rad, 0.0]) / left
    action[4] = place[4]
    return np.clip(action, ARMS_ACTION_SPACE.low, ARMS_ACTION_SPACE.high).astype(np.float32)


def expert_action(skill: str, view: View, seed: int) -> Float32:
    """The expert's next action [A] for a known skill: straight towards its goal, as far as one step may go."""
    if skill == "wander":
        return _wander(view, seed)
    rule = _push(push_direction(skill)) if skill.startswith("push_") else _RULES[skill]
    goal = rule(view)
    high = ARMS_ACTION_SPACE.high
    move = goal.tip_m - view.target_m
    move *= min(1.0, float(high[0]) / max(float(np.abs(move).max()), 1e-9))  # shorter, but in the same direction
    turn = np.clip(goal.yaw_rad - view.target_yaw_rad, -high[3], high[3])
    return np.array([*move, turn, goal.opening], np.float32)
