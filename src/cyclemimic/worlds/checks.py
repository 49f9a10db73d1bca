"""What every world asks of a task and of an action before it uses them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.types import ActionSpace, Float32, Task, World


def check_task(task: Task, world: World) -> None:
    """Raise InputError unless `world` knows the task's body and skill, and the seed is an integer from 0 on."""
    for field, word, known in (("body", task.body, world.bodies), ("skill", task.skill, world.skills)):
        if word not in known:
            raise InputError(
                f"Task.{field}",
                expected=f"a {field} of the world {world.name!r}",
                got=repr(word),
                remedy=did_you_mean(word, known),
            )
    if isinstance(task.seed, bool) or not isinstance(task.seed, int | np.integer) or task.seed < 0:
        raise InputError("Task.seed", expected="an integer >= 0", got=repr(task.seed), remedy="Count seeds from 0.")


def clipped(action: Float32, space: ActionSpace) -> NDArray[np.float64]:
    """One action [A] within the limits of `space`. Raises InputError for another shape, NaN or infinity."""
    action = np.asarray(action)
    if action.ndim != 1:
        raise InputError(
            "action",
            expected=f"one action of {space.width} numbers",
            got=f"shape {action.shape}",
            remedy="Give a step one action of a chunk at a time.",
        )
    space.check(action, "action")
    return np.clip(action.astype(np.float64), space.low, space.high)
