"""A World in numpy: a square slides over a plate until it covers a ring. Two bodies, told apart by colour."""

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.randomness import rng_for
from cyclemimic.types import ActionSpace, Axis, CameraSpec, Float32, Observation, Task, UInt8, WorldStep
from cyclemimic.worlds.checks import check_task, clipped

AXES = tuple(Axis(name=f"{name}_m", unit="m", low=-0.15, high=0.15, kind="delta") for name in "xy")
SPACE = ActionSpace(name="plate", axes=AXES, rate_hz=5.0)
CAMERA = CameraSpec(name="above", height_px=24, width_px=24)
COLOURS = {"red": (230, 40, 30), "blue": (30, 60, 230)}


def draw(at: NDArray[np.float64], ring: NDArray[np.float64], body: str) -> UInt8:
    """The plate, two metres wide, from above: x to the right, y down."""
    picture = np.full((24, 24, 3), 120, np.uint8)
    y, x = np.mgrid[0:24, 0:24] / 11.5 - 1
    picture[np.abs(np.hypot(x - ring[0], y - ring[1]) - 0.25) < 0.06] = 20
    picture[(np.abs(x - at[0]) < 0.2) & (np.abs(y - at[1]) < 0.2)] = COLOURS[body]
    return picture


class PlateWorld:
    """The square moves exactly as told, and stays on the plate. Its state: square [2], ring [2], steps taken."""

    name, action_space, camera, max_steps = "plate", SPACE, CAMERA, 24
    bodies, skills = tuple(COLOURS), ("cover",)
    _body, _now = "", np.empty(0)

    def reset(self, task: Task) -> Observation:
        check_task(task, self)
        self._body, self._now = task.body, np.append(rng_for(task.seed, 0, "plate").uniform(-0.7, 0.7, 4), 0.0)
        return self._observe()

    def step(self, action: Float32) -> WorldStep:
        at, ring, steps = np.split(self.state(), [2, 4])
        self._now = np.array([*np.clip(at + clipped(action, SPACE), -1, 1), *ring, *(steps + 1)])
        success, late = np.hypot(*(self._now[:2] - ring)) < 0.1, self._now[4] >= self.max_steps
        return WorldStep(observation=self._observe(), success=bool(success), truncated=bool(late))

    def expert_action(self) -> Float32:
        return np.clip(self.state()[2:4] - self._now[:2], SPACE.low, SPACE.high).astype(np.float32)

    def state(self) -> NDArray[np.float64]:
        if not self._now.size:
            raise InputError("plate", expected="a running task", got="none", remedy="Call reset(task) first.")
        return self._now.copy()

    def restore(self, state: NDArray[np.float64]) -> Observation:
        if state.shape != self.state().shape:
            raise InputError("state", expected="5 numbers", got=str(state.shape), remedy="Pass what state() gave.")
        self._now = state.copy()
        return self._observe()

    def _observe(self) -> Observation:
        picture, at = draw(self._now[:2], self._now[2:4], self._body), self._now[:2].astype(np.float32)
        return Observation(images={"above": picture}, instruction="cover the ring", proprioception=at)
