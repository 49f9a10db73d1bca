"""Which action of which chunk is next: the newest chunk's, or a mean of all that speak of this step.

Steps are counted over an episode; a chunk's first action belongs to the step at which its observation was taken.
A change is no place: before a mean is taken, changes are summed up to targets, as places seen from the start of the
episode; the mean target becomes a change again. Engineering, after ACT's temporal ensemble, which averages targets.

Letters in shapes: S steps of a chunk, A action axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.types import Float32


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Targets [S, A] for the steps from `first` on."""

    first: int
    targets: NDArray[np.float64]


class Blending:
    """Chunks in, one action per step out.

    Args:
        deltas: which axes [A] are changes; the others are targets already.
        newer: the weight of a chunk relative to the one before it: 1 is the plain mean, below 1 trusts the older ones
            more, above 1 the newer ones.
        keep: at most so many chunks are blended.

    Raises:
        InputError: `newer` is not above 0.
    """

    def __init__(self, deltas: NDArray[np.bool_], newer: float = 1.0, keep: int = 16) -> None:
        if not 0 < newer < np.inf:
            raise InputError("--blend", expected="a weight above 0", got=str(newer), remedy="1 is the plain mean.")
        self.deltas, self.newer, self.keep = np.asarray(deltas, bool), newer, keep
        self.clear()

    def clear(self) -> None:
        """Forget everything: a new episode, or the robot was held and the old plans are void."""
        self._chunks: list[_Chunk] = []
        self._place = np.zeros(len(self.deltas))  # [A], the sum of the changes taken; 0 for axes of targets
        self._places: dict[int, NDArray[np.float64]] = {}  # where each step began, while a chunk may start there

    def saw(self, step: int) -> None:
        """The observation of a chunk to come is taken at the beginning of `step`."""
        self._places[step] = self._place.copy()

    def add(self, actions: Float32, first: int) -> None:
        """A chunk [S, A] whose observation was taken at step `first` (see `saw`)."""
        actions = actions.astype(np.float64)
        begin = self._places.pop(first)
        targets = np.where(self.deltas, begin + np.cumsum(actions, 0), actions)
        self._chunks = [*self._chunks, _Chunk(first=first, targets=targets)][-self.keep :]

    def action(self, step: int) -> Float32 | None:
        """The action [A] of `step`, or None where no chunk speaks of it."""
        self._chunks = [c for c in self._chunks if step < c.first + len(c.targets)]
        if not self._chunks:
            return None
        weights = self.newer ** np.arange(len(self._chunks))
        targets = np.stack([c.targets[step - c.first] for c in self._chunks])
        target = weights @ targets / weights.sum()
        action: Float32 = np.where(self.deltas, target - self._place, target).astype(np.float32)
        return action

    def took(self, action: Float32) -> None:
        """What was done in the end, limits and all; later changes start from there."""
        self._place = self._place + np.where(self.deltas, action, 0.0)


class Newest:
    """No blending: the newest chunk that has been answered governs. The same interface as `Blending`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._actions: Float32 | None = None
        self._first = 0

    def saw(self, step: int) -> None:
        """Nothing to remember."""

    def add(self, actions: Float32, first: int) -> None:
        """A chunk [S, A] whose observation was taken at step `first`."""
        self._actions, self._first = actions, first

    def action(self, step: int) -> Float32 | None:
        """The action [A] of `step`, or None where the chunk does not reach so far."""
        at = step - self._first
        return None if self._actions is None or at >= len(self._actions) else self._actions[at]

    def took(self, action: Float32) -> None:
        """Nothing to remember."""
