"""A Robot: the square on the plate, driven as a real body would be. Imports no torch, for a robot needs none."""

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.randomness import rng_for
from cyclemimic.types import Float32, Observation, Task
from cyclemimic.worlds.checks import clipped
from cyclemimic_example.world import CAMERA, SPACE, draw


class PlateRobot:
    """Stands in for motors and a camera: `observe` would read both, `apply` would write to the motors."""

    name, action_space, cameras, skills = "red", SPACE, (CAMERA,), ("cover",)

    def __init__(self) -> None:
        self._at, self._ring = np.zeros(2), np.full(2, 0.5)
        self._steps = 0

    def reset(self, task: Task) -> None:
        if task.skill not in self.skills or task.body != self.name:
            got = f"{task.body!r}, skill {task.skill!r}"
            raise InputError("task", expected="body 'red', skill 'cover'", got=got, remedy="It can do nothing else.")
        places = rng_for(task.seed, 0, "plate").uniform(-0.7, 0.7, 4)
        self._at, self._ring, self._steps = places[:2], places[2:], 0

    def observe(self) -> Observation:
        picture = draw(self._at, self._ring, self.name)
        return Observation(
            images={"above": picture}, instruction="cover the ring", proprioception=self._at.astype(np.float32)
        )

    def apply(self, action: Float32) -> None:
        move = clipped(action, SPACE)  # refuses what is no action, before anything moves
        self._at = np.clip(self._at + move, -1, 1)
        self._steps += 1

    def hold(self) -> None:
        """It stands still between two actions; motors would be told to stay where they are."""

    def outcome(self) -> bool | None:
        if np.hypot(*(self._at - self._ring)) < 0.1:
            return True
        return False if self._steps >= 24 else None

    def close(self) -> None:
        """Motors and camera would be let go here."""
