"""A flat world drawn with numpy: arms seen from above push coloured discs. For tests and examples; instant.

Its hand moves exactly as told, so true motion is known without error. An open hand passes over discs, a closed one
pushes them. As in the arms world x leads up the picture and y to its left. Engineering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.randomness import rng_for
from cyclemimic.types import ActionSpace, Axis, CameraSpec, Float32, Observation, Task, UInt8, WorldStep
from cyclemimic.worlds.arms_tasks import COLOURS, DIRECTIONS, OPPOSITE, push_direction
from cyclemimic.worlds.checks import check_task, clipped

Floats = NDArray[np.float64]

TABLE_HALF_M = 0.16
_DISC_M, _HAND_M = 0.026, 0.022
_REGION_M, _APART_M, _LANE_M = 0.10, 0.09, 0.07
_REACHED_M, _PUSHED_M = 0.02, 0.05
_PUSHES_BELOW = 0.5  # a hand less open than this pushes
_SUBSTEPS = 5
_TABLE_RGB = (0.60, 0.52, 0.43)


@dataclass(frozen=True, kw_only=True)
class DrawnBody:
    """How a body is drawn: its colour, its foot (x, y), the length of a link (0: a straight pole; None: rails)."""

    rgb: tuple[float, float, float]
    foot_m: tuple[float, float]
    link_m: float | None
    width_m: float


DRAWN_BODIES: dict[str, DrawnBody] = {
    "crane": DrawnBody(rgb=(0.95, 0.45, 0.08), foot_m=(0.18, 0.0), link_m=0.0, width_m=0.014),
    "elbow": DrawnBody(rgb=(0.93, 0.93, 0.90), foot_m=(0.17, 0.10), link_m=0.20, width_m=0.010),
    "scout": DrawnBody(rgb=(0.97, 0.83, 0.10), foot_m=(0.0, -0.19), link_m=-0.20, width_m=0.006),
    "rails": DrawnBody(rgb=(0.40, 0.42, 0.46), foot_m=(0.0, 0.0), link_m=None, width_m=0.008),
}

DRAWN_ACTION_SPACE = ActionSpace(
    name="drawn",
    axes=(
        Axis(name="x_m", unit="m", low=-0.025, high=0.025, kind="delta"),
        Axis(name="y_m", unit="m", low=-0.025, high=0.025, kind="delta"),
        Axis(name="gripper", unit="fraction", low=0.0, high=1.0),
    ),
    rate_hz=5.0,
)


class _Canvas:
    """Paints round and straight things at real positions into a square picture."""

    def __init__(self, size_px: int) -> None:
        place = TABLE_HALF_M * (1 - (np.arange(size_px) + 0.5) / size_px * 2)
        x, y = np.meshgrid(place, place, indexing="ij")  # rows from the top: x falls; columns from the left: y falls
        self._x, self._y = x.astype(np.float32), y.astype(np.float32)
        self._empty = np.empty((size_px, size_px, 3), np.uint8)
        self._empty[:] = np.array(_TABLE_RGB) * 255
        self.picture = self._empty.copy()

    def clear(self) -> None:
        """Start a new picture."""
        self.picture = self._empty.copy()

    def disc(self, at: Floats, radius_m: float, rgb: tuple[float, float, float], hole_m: float = 0.0) -> None:
        """A disc, or a ring if it has a hole."""
        far = (self._x - np.float32(at[0])) ** 2 + (self._y - np.float32(at[1])) ** 2
        inside = far < radius_m**2
        if hole_m:
            inside &= far >= hole_m**2
        self.picture[inside] = np.array(rgb) * 255

    def bar(self, start: Floats, end: Floats, half_width_m: float, rgb: tuple[float, float, float]) -> None:
        """A straight bar with round ends."""
        span = (end - start).astype(np.float32)
        dx, dy = self._x - np.float32(start[0]), self._y - np.float32(start[1])
        along = np.clip((dx * span[0] + dy * span[1]) / max(float(span @ span), 1e-9), 0.0, 1.0)
        dx -= along * span[0]
        dy -= along * span[1]
        self.picture[dx * dx + dy * dy < half_width_m**2] = np.array(rgb) * 255


class DrawnWorld:
    """Four flat bodies, two discs, one action: how far the hand goes, and how far it opens.

    Args:
        size_px: height and width of the pictures.

    Raises:
        InputError: a picture size below 8.
    """

    name = "drawn"
    bodies: tuple[str, ...] = tuple(DRAWN_BODIES)
    skills: tuple[str, ...] = ("reach", *(f"push_{way}" for way in DIRECTIONS))
    action_space: ActionSpace = DRAWN_ACTION_SPACE
    max_steps: int = 24

    def __init__(self, size_px: int = 32) -> None:
        if size_px < 8:
            raise InputError(
                "size_px", expected="pictures of 8 pixels or more", got=str(size_px), remedy="32 is usual."
            )
        self.camera = CameraSpec(name="top", height_px=size_px, width_px=size_px)
        self._canvas = _Canvas(size_px)
        self._task: Task | None = None
        self._colours = ("red", "green")
        self._start = np.zeros(2)
        self._hand = np.zeros(2)
        self._opening = 0.5
        self._discs = np.zeros((2, 2))  # the task's disc first
        self._steps = 0

    def reset(self, task: Task) -> Observation:
        """Start `task`; equal (skill, seed) start alike for every body. Raises InputError for an unknown word."""
        check_task(task, self)
        self._colours, self._discs, self._hand = _draw_start(task.skill, task.seed)
        self._task, self._start = task, self._discs[0].copy()
        self._opening, self._steps = 0.5, 0
        return self._observe()

    def step(self, action: Float32) -> WorldStep:
        """Apply one action [A], clipped to its limits. Raises InputError for a wrong width, NaN, or before `reset`."""
        task = self._running()
        move = clipped(action, self.action_space)
        self._opening = float(move[2])
        for _ in range(_SUBSTEPS):
            self._hand = np.clip(self._hand + move[:2] / _SUBSTEPS, -TABLE_HALF_M, TABLE_HALF_M)
            if self._opening < _PUSHES_BELOW:
                self._push_discs()
        self._steps += 1
        success = self._is_done(task.skill)
        return WorldStep(
            observation=self._observe(),
            success=success,
            truncated=not success and self._steps >= self.max_steps,
        )

    def expert_action(self) -> Float32:
        """The scripted expert's next action [A], from the present state alone."""
        task = self._running()
        disc = self._discs[0]
        if task.skill == "reach":
            return self._towards(disc, 1.0)
        way = push_direction(task.skill)
        side = np.array([-way[1], way[0]])
        rel = self._hand - disc
        along, aside = float(rel @ way), float(rel @ side)
        if along < -_DISC_M and abs(aside) < 0.012:
            return self._towards(self._hand + 0.025 * way - aside * side, 0.0)
        return self._towards(disc - (_DISC_M + _HAND_M + 0.004) * way, 1.0)

    def instruction(self, task: Task) -> str:
        """The sentence of a task."""
        check_task(task, self)
        return _sentence(task.skill, _draw_start(task.skill, task.seed)[0][0])

    def swapped_instruction(self, task: Task) -> str:
        """A sentence that asks for something else in the same scene: the other disc, the opposite direction."""
        check_task(task, self)
        skill = task.skill
        if skill.startswith("push_"):
            skill = f"push_{OPPOSITE[skill.removeprefix('push_')]}"
        return _sentence(skill, _draw_start(task.skill, task.seed)[0][1])

    def state(self) -> NDArray[np.float64]:
        """Hand [2], opening, both discs [4], step count: 8 numbers."""
        self._running()
        return np.array([*self._hand, self._opening, *self._discs.reshape(-1), self._steps], np.float64)

    def restore(self, state: NDArray[np.float64]) -> Observation:
        """Return to a state that `state` gave for the running task. Raises InputError if it has another length."""
        self._running()
        if state.shape != (8,):
            raise InputError(
                "state", expected="8 numbers", got=f"shape {state.shape}", remedy="Pass what state() gave."
            )
        self._hand, self._opening = np.array(state[:2]), float(state[2])
        self._discs, self._steps = np.array(state[3:7]).reshape(2, 2), int(state[7])
        return self._observe()

    def _running(self) -> Task:
        if self._task is None:
            raise InputError("DrawnWorld", expected="a running task", got="none", remedy="Call reset(task) first.")
        return self._task

    def _towards(self, goal: Floats, opening: float) -> Float32:
        return clipped(np.array([*(goal - self._hand), opening], np.float32), self.action_space).astype(np.float32)

    def _push_discs(self) -> None:
        for disc in self._discs:
            away = disc - self._hand
            far = float(np.hypot(away[0], away[1]))
            if far < _DISC_M + _HAND_M:
                disc += away / max(far, 1e-6) * (_DISC_M + _HAND_M - far)
        np.clip(self._discs, -TABLE_HALF_M, TABLE_HALF_M, out=self._discs)

    def _is_done(self, skill: str) -> bool:
        if skill == "reach":
            return bool(np.linalg.norm(self._hand - self._discs[0]) < _REACHED_M)
        way, moved = push_direction(skill), self._discs[0] - self._start
        along, aside = float(moved @ way), abs(float(moved[0] * way[1] - moved[1] * way[0]))
        return along >= _PUSHED_M and aside < along

    def _observe(self) -> Observation:
        task = self._running()
        return Observation(
            images={self.camera.name: self._picture(DRAWN_BODIES[task.body])},
            instruction=_sentence(task.skill, self._colours[0]),
            proprioception=np.array([*self._hand, self._opening], np.float32),
        )

    def _picture(self, body: DrawnBody) -> UInt8:
        canvas, hand = self._canvas, self._hand
        canvas.clear()
        for disc, colour in zip(self._discs, self._colours, strict=True):
            canvas.disc(disc, _DISC_M, COLOURS[colour])
        foot = np.array(body.foot_m)
        if body.link_m is None:
            canvas.bar(np.array([hand[0], -0.2]), np.array([hand[0], 0.2]), body.width_m, body.rgb)
            canvas.bar(hand, np.array([0.2, hand[1]]), body.width_m, body.rgb)
        elif body.link_m == 0.0:
            canvas.bar(foot, hand, body.width_m, body.rgb)
        else:
            elbow = _elbow(foot, hand, body.link_m)
            canvas.bar(foot, elbow, body.width_m, body.rgb)
            canvas.bar(elbow, hand, body.width_m, body.rgb)
        canvas.disc(hand, _HAND_M, body.rgb)
        canvas.disc(hand, _HAND_M * 0.7, (0.08, 0.08, 0.09), hole_m=_HAND_M * 0.7 * self._opening)
        return canvas.picture


def _elbow(foot: Floats, hand: Floats, link_m: float) -> Floats:
    """Where two equal links meet; the sign of `link_m` says to which side they bend."""
    span = hand - foot
    half = float(np.hypot(span[0], span[1])) / 2
    height = np.sqrt(max(link_m**2 - half**2, 0.0)) * np.sign(link_m)
    return np.asarray(foot + span / 2 + height * np.array([-span[1], span[0]]) / max(2 * half, 1e-6))


def _sentence(skill: str, colour: str) -> str:
    if skill == "reach":
        return f"reach the {colour} disc"
    return f"push the {colour} disc {skill.removeprefix('push_')}"


def _draw_start(skill: str, seed: int) -> tuple[tuple[str, str], Floats, Floats]:
    """Colours (the task's first), discs [2, 2] and hand [2] of the task (skill, seed)."""
    rng = rng_for(seed, 0, f"drawn/{skill}")
    first, second = (str(c) for c in rng.permutation(list(COLOURS))[:2])
    while True:
        discs, hand = rng.uniform(-_REGION_M, _REGION_M, (2, 2)), rng.uniform(-_REGION_M, _REGION_M, 2)
        near = [np.linalg.norm(discs[0] - discs[1]), *np.linalg.norm(discs - hand, axis=1)]
        if near[0] < _APART_M or min(near[1:]) < 0.06:
            continue
        if skill.startswith("push_"):
            way = push_direction(skill)
            where = np.clip((discs[1] - discs[0]) @ way, -0.06, 0.10)
            if np.linalg.norm(discs[1] - discs[0] - where * way) < _LANE_M:
                continue
        return (first, second), discs, hand
