"""The last word before a robot moves: every axis within its limits, and every clip counted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.types import ActionSpace, Float32


def which_axes(where: str, names: tuple[str, ...], space: ActionSpace) -> NDArray[np.bool_]:
    """Which axes [A] of `space` are named. Raises InputError for an unknown name."""
    known = [axis.name for axis in space.axes]
    for name in names:
        if name not in known:
            raise InputError(
                where, expected=f"axes of {space.name!r}", got=repr(name), remedy=did_you_mean(name, known)
            )
    return np.array([name in names for name in known])


class Limits:
    """Clips actions [A].

    Args:
        space: lower and upper limits.
        deltas: which axes [A] are changes; the others are targets.
        max_step: by axis name, the most that a step may change; tighter than the space, for a first try on a robot.
            A change is limited itself, a target in how far it lies from the one before.

    Raises:
        InputError: an unknown axis, or a step that is not above 0.
    """

    def __init__(
        self, space: ActionSpace, deltas: NDArray[np.bool_], max_step: Mapping[str, float] | None = None
    ) -> None:
        which_axes("--max-step", tuple(max_step or ()), space)
        self.space, self.deltas = space, deltas
        self._step = np.array([(max_step or {}).get(axis.name, np.inf) for axis in space.axes], np.float32)
        if not (self._step > 0).all():
            raise InputError("--max-step", expected="more than 0", got=str(max_step), remedy="Leave out that axis.")
        self._clips = np.zeros(space.width, int)
        self.start()

    def start(self) -> None:
        """A new episode, or a hold: what was told before counts no more."""
        self._last: Float32 | None = None

    def clip(self, action: Float32) -> Float32:
        """The nearest allowed action [A]."""
        centre = np.zeros(self.space.width, np.float32)
        reach = np.where(self.deltas, self._step, np.float32(np.inf))
        if self._last is not None:
            centre, reach = np.where(self.deltas, centre, self._last), self._step
        # The step first: where it and the space have nothing in common, the space has the last word.
        allowed: Float32 = np.clip(np.clip(action, centre - reach, centre + reach), self.space.low, self.space.high)
        self._clips += allowed != action
        self._last = allowed
        return allowed

    def clips(self) -> dict[str, int]:
        """How many actions were clipped, by axis."""
        return {axis.name: int(count) for axis, count in zip(self.space.axes, self._clips, strict=True)}
