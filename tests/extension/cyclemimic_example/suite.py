"""A Suite: the plate's one skill, in a family for starts that are near and one for starts that are far."""

from collections.abc import Mapping, Sequence

import numpy as np

from cyclemimic.evaluate.suite import FIRST_SEED, ReferenceRow
from cyclemimic.types import Task, World
from cyclemimic_example.world import PlateWorld

NEAR_M = 0.7


class PlateSuite:
    """Families may be anything that divides tasks: here it is how far the square must go."""

    name = "plate"
    # What others published on the same tasks, copied with its source. These are made up: nobody ever did.
    references = (
        ReferenceRow(
            method="straight line", success={"near": 1.0, "far": 0.5, "all": 0.75}, source="this example, made up"
        ),
    )

    def world(self) -> World:
        return PlateWorld()

    def tasks(self, episodes: int) -> Mapping[str, Sequence[Task]]:
        families: dict[str, list[Task]] = {"near": [], "far": []}
        for body in PlateWorld.bodies:
            for family, found in families.items():
                wanted, seed = len(found) + episodes, FIRST_SEED
                while len(found) < wanted:
                    task = Task(body=body, skill="cover", seed=seed)
                    if family == self._family_of(task):
                        found.append(task)
                    seed += 1
        return families

    @staticmethod
    def _family_of(task: Task) -> str:
        world = PlateWorld()
        world.reset(task)
        square, ring = world.state()[:2], world.state()[2:4]
        return "near" if np.hypot(*(ring - square)) < NEAR_M else "far"
