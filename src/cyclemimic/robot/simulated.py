"""Any world as a robot: the loop, the client and the server are then tried without one."""

from __future__ import annotations

from cyclemimic.errors import InputError
from cyclemimic.types import CameraSpec, Float32, Observation, Task, World, WorldStep


class SimulatedRobot:
    """A world that is driven as a robot is. It stands still between two actions, so holding is doing nothing.

    Args:
        world: what is driven; this robot is its only user.
    """

    def __init__(self, world: World) -> None:
        self.world, self.name, self.action_space = world, world.name, world.action_space
        self.cameras: tuple[CameraSpec, ...] = (world.camera,)
        self.skills = world.skills
        self._seen: Observation | None = None
        self._outcome: bool | None = None
        self._steps = 0

    def reset(self, task: Task) -> None:
        """Start `task`; equal tasks start equal."""
        self._seen, self._outcome, self._steps = self.world.reset(task), None, 0

    def observe(self) -> Observation:
        """What the last action, or the start, left to see."""
        return self._running()

    def apply(self, action: Float32) -> None:
        """One step of the world."""
        self._running()
        step: WorldStep = self.world.step(action)
        self._seen = step.observation
        self._steps += 1
        if step.success or step.truncated or self._steps >= self.world.max_steps:
            self._outcome = step.success

    def hold(self) -> None:
        """Nothing moves between two steps."""

    def outcome(self) -> bool | None:
        """The world's own judgement; False when time is up."""
        return self._outcome

    def close(self) -> None:
        """Nothing is held open."""

    def _running(self) -> Observation:
        if self._seen is None:
            raise InputError(self.name, expected="a running task", got="none", remedy="Call reset(task) first.")
        return self._seen
