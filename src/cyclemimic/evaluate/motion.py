"""What moved, by a source's own numbers: the hand's displacement where its place is named, else its main changes.

Engineering. Letters in shapes: T frames of a clip, D numbers of a state or action, n pairs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.types import Axis, Episode

_LARGEST = 4  # axes that are named beside a principal axis
_LEAST_SPREAD = 1e-6  # an axis that changes less does not move


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What the three numbers of a displacement are, and how near is alike.

    Args:
        axes: their names.
        unit: of all three.
        said: the same in a sentence, for whoever reads the numbers.
        within: displacements this near are the same motion.
        moving: less is hardly a motion.
    """

    axes: tuple[str, str, str]
    unit: str
    said: str
    within: float
    moving: float


HAND = Motion(axes=("x", "y", "z"), unit="m", said="displacement of the hand over the gap", within=0.01, moving=0.02)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an episode says of motion: a quantity per frame [T, D] of which motion is the difference, and its axes."""

    places: NDArray[np.float64]
    axes: tuple[Axis, ...]
    origin: str  # state, or actions


def told_by(episode: Episode) -> Told:
    """The state where its axes are named, else what the actions add up to.

    Actions that are targets are taken for where the robot then is; changes are summed. Angles are unwrapped.

    Raises:
        InputError: there is neither.
    """
    state, space, actions = episode.proprioception, episode.action_space, episode.actions
    if state is not None and episode.proprioception_axes:
        axes, origin, places = episode.proprioception_axes, "state", state.astype(np.float64)
    elif actions is not None and space is not None:
        axes, origin, told = space.axes, "actions", actions.astype(np.float64)
        targets = np.concatenate([told[:1], told])
        sums = np.concatenate([np.zeros((1, told.shape[1])), told.cumsum(0)])
        places = np.where([axis.kind == "delta" for axis in axes], sums, targets)
    else:
        raise InputError(
            f"episode {episode.info.name!r}",
            expected="a state or actions with named axes",
            got="a state whose axes have no names" if state is not None else "video alone",
            remedy="Give Episode.proprioception and proprioception_axes, or actions and action_space; on video alone "
            "use `cyclemimic inspect`.",
        )
    turns = np.array([axis.unit == "rad" for axis in axes])
    places[:, turns] = np.unwrap(places[:, turns], axis=0)
    return Told(places=places, axes=axes, origin=origin)


def hand_axes(axes: Sequence[Axis]) -> tuple[int, int, int] | None:
    """Which of the axes are x, y and z of a hand in metres, such as x_m or tip_x_m; of several hands the first."""
    found: dict[tuple[str, ...], dict[str, int]] = {}
    for i, axis in enumerate(axes):
        words = re.split(r"[^a-z0-9]+", axis.name.lower())
        for letter in "xyz":
            if axis.unit == "m" and words.count(letter) == 1:
                rest = tuple(word for word in words if word != letter)
                found.setdefault(rest, {})[letter] = i
    for places in found.values():
        if len(places) == 3:
            return places["x"], places["y"], places["z"]
    return None


def motions(
    told: Mapping[str, Told], gaps: Mapping[str, int], training: Collection[str], where: str
) -> tuple[dict[str, NDArray[np.float64]], Motion]:
    """For each clip a place [T, 3] whose differences are displacements, and what these are.

    Args:
        told: by clip.
        gaps: of each clip, in frames.
        training: clips on which principal axes and their scale are fitted.
        where: the source, for messages.

    Raises:
        InputError: neither does every clip name a hand's x, y and z, nor do all name the same axes.
    """
    hands = {name: hand_axes(found.axes) for name, found in told.items()}
    if all(hand is not None for hand in hands.values()):
        first, name = next((found, name) for name, found in told.items())
        names = [first.axes[i].name for i in hands[name] or ()]
        said = f"displacement of the hand over the gap ({', '.join(names)} of the {first.origin}, in metres)"
        hand = Motion(axes=HAND.axes, unit=HAND.unit, said=said, within=HAND.within, moving=HAND.moving)
        return {name: found.places[:, list(hands[name] or ())] for name, found in told.items()}, hand
    for one, other in pairwise(told):
        if _names(told[one]) != _names(told[other]):
            raise InputError(
                where,
                expected="x, y and z in metres in every clip, or the same axes in all",
                got=f"{', '.join(_names(told[one]))} in {one!r}, {', '.join(_names(told[other]))} in {other!r}",
                remedy="Judge each body's clips as a source of their own.",
            )
    return _principal(told, gaps, training, where)


def _names(told: Told) -> list[str]:
    return [f"{axis.name} [{axis.unit}]" for axis in told.axes]


def _principal(
    told: Mapping[str, Told], gaps: Mapping[str, int], training: Collection[str], where: str
) -> tuple[dict[str, NDArray[np.float64]], Motion]:
    """The first three principal axes of the change over the gap, each number over its spread; lengths have RMS one."""
    changes = np.concatenate([
        told[name].places[gaps[name] :] - told[name].places[: -gaps[name]] for name in sorted(training)
    ])  # fmt: skip
    spread = changes.std(0)
    moves = spread > _LEAST_SPREAD
    if len(changes) < 2 or not moves.any():
        got = f"{len(changes)} pairs in which nothing changes"
        raise InputError(where, expected="a state that changes over the gap", got=got, remedy="Check its numbers.")
    scale = np.where(moves, 1 / np.where(moves, spread, 1), 0)
    whitened = (changes - changes.mean(0)) * scale
    _, strength, rows = np.linalg.svd(whitened, full_matrices=False)
    chosen = rows[:3]
    # The sign of an axis is nobody's business; the largest part points forward.
    chosen = chosen * np.sign(np.take_along_axis(chosen, np.abs(chosen).argmax(1)[:, None], axis=1))
    onto = np.zeros((len(scale), 3))  # fewer than three numbers leave axes on which nothing moves
    onto[:, : len(chosen)] = scale[:, None] * chosen.T
    onto /= np.sqrt(np.square(changes @ onto).sum(1).mean())
    share = np.square(strength) / np.square(strength).sum()
    first = next(iter(told.values()))
    parts = [f"{100 * part:.0f} % ({_mostly(row, first)})" for part, row in zip(share, chosen, strict=False)]
    said = (
        f"first principal axes of the change over the gap of {int(moves.sum())} numbers of the {first.origin}, each "
        f"over its spread; they make up {', '.join(parts)} of it"
    )
    motion = Motion(axes=("1st", "2nd", "3rd"), unit="of the usual change", said=said, within=0.25, moving=0.5)
    return {name: found.places @ onto for name, found in told.items()}, motion


def _mostly(row: NDArray[Any], told: Told) -> str:
    """The axes that weigh most in a principal axis."""
    largest = np.argsort(-np.abs(row), kind="stable")[: min(_LARGEST, int((np.abs(row) > 1e-6).sum()))]
    return ", ".join(f"{told.axes[i].name} [{told.axes[i].unit}]" for i in largest)
