"""What a robot must be able to do to be driven, and by which names robots are found. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from cyclemimic.errors import InputError
from cyclemimic.types import ActionSpace, CameraSpec, Float32, Observation, Task


@runtime_checkable
class Robot(Protocol):
    """A body that sees and acts: real, or simulated. Letters in shapes: A action axes.

    Between two calls of `apply` it goes on with what it was told, or stands still; `hold` says that it shall stand
    still now. Nothing here need be fast but `observe` and `apply`.
    """

    name: str
    action_space: ActionSpace
    cameras: tuple[CameraSpec, ...]
    skills: tuple[str, ...]  # what it can be asked to do, by name

    def reset(self, task: Task) -> None:
        """Get ready for `task`. Raises InputError for one that it does not know."""
        ...

    def observe(self) -> Observation:
        """What there is to see now: a picture of every camera, and proprioception where it has some."""
        ...

    def apply(self, action: Float32) -> None:
        """Begin one action [A]. Raises InputError for another width, NaN or infinity, and then does not move."""
        ...

    def hold(self) -> None:
        """Stand still, until the next action."""
        ...

    def outcome(self) -> bool | None:
        """Whether the task is solved (True) or can no longer be (False); None while it runs or nobody can tell."""
        ...

    def close(self) -> None:
        """Let go of everything; a second time does nothing."""
        ...


def _arms() -> Robot:
    # Needs mujoco, which a robot of one's own does not.
    try:
        from cyclemimic.robot.simulated import SimulatedRobot
        from cyclemimic.worlds.arms import ArmsWorld
    except ModuleNotFoundError as missing:
        raise InputError(
            "robot 'arms'",
            expected=f"{missing.name}",
            got="an environment without it",
            remedy="pip install 'cyclemimic[arms]'",
        ) from missing
    return SimulatedRobot(ArmsWorld())


ROBOTS: dict[str, Callable[[], Robot]] = {"arms": _arms}
