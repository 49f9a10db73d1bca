"""The five skills of the arms' table on each body. No method was ever judged on it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cyclemimic.evaluate.suite import FIRST_SEED, ReferenceRow
from cyclemimic.types import Task, World
from cyclemimic.worlds.arms import ArmsWorld
from cyclemimic.worlds.arms_tasks import DIRECTIONS

TABLE_SKILLS = ("reach", *(f"push_{way}" for way in DIRECTIONS))


class ArmsSuite:
    """A family per body: one reaches and pushes four ways, all bodies from the same starts."""

    name = "arms"
    references: tuple[ReferenceRow, ...] = ()

    def world(self) -> World:
        """The arms world as it was filmed, undisturbed."""
        return ArmsWorld()

    def tasks(self, episodes: int) -> Mapping[str, Sequence[Task]]:
        """`episodes` starts of each skill, skill by skill in turn."""
        return {
            body: [Task(body=body, skill=skill, seed=FIRST_SEED + i) for i in range(episodes) for skill in TABLE_SKILLS]
            for body in ArmsWorld.bodies
        }
