"""What the numbers of LeRobot datasets mean: to radians, metres and fractions, by robot and name of axis. Numpy only.

LeRobot writes names of axes but no units. What its own robots record is this:

    SO-100, SO-101, names `main_...`      degrees, gripper in percent (LeRobot before 0.2)
    SO-100, SO-101, names `....pos`       by the robot's setting either degrees, or -100 to 100 of the calibrated range;
                                          gripper in percent
    names that end in _m, _mm, _rad, _deg as they say

The second line cannot be told from the file, but a joint beyond 100 is in degrees, since LeRobot cuts the other at 100.
Everything else must be said: guessing would move a robot by the wrong amount. The range of -100 to 100 is taken for
that of `so101.SO101_JOINTS`; a calibration that stopped short of the end stops means another angle by the same number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.embodiment.so101 import SO101_JOINTS
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.types import Axis, Float32

SO_ARMS = ("so100", "so101", "so100_follower", "so101_follower", "so_follower")
RANGE = "range"  # -100 to 100 between a joint's limits
_FULL = 100.5  # LeRobot cuts -100 to 100 off at its ends; the half is for rounding
_SO_NAMES = tuple(axis.name for axis in SO101_JOINTS)
_SUFFIXES = {"_m": "m", "_mm": "mm", "_rad": "rad", "_deg": "degrees"}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """`factor` times a number plus `offset` is the number in `unit`."""

    unit: str
    factor: float = 1.0
    offset: float = 0.0


# What `?units=` may say of an axis.
SCALES: dict[str, Scale] = {
    "m": Scale(unit="m"),
    "mm": Scale(unit="m", factor=1e-3),
    "rad": Scale(unit="rad"),
    "degrees": Scale(unit="rad", factor=math.pi / 180),
    "fraction": Scale(unit="fraction"),
    "percent": Scale(unit="fraction", factor=0.01),
    "signed": Scale(unit="fraction", factor=0.5, offset=0.5),  # -1 to 1
}


def short_name(name: str) -> str:
    """The axis' name without what LeRobot puts around it."""
    return name.removeprefix("main_").removesuffix(".pos")


def table_of(robot: str, names: Sequence[str]) -> tuple[Axis, ...] | None:
    """Our own axes of a robot that we know, with the maker's limits; None for others."""
    known = robot in SO_ARMS and tuple(map(short_name, names)) == _SO_NAMES
    return SO101_JOINTS if known else None


def scales_of(
    robot: str, names: Sequence[str], *, asked: str | None, largest: NDArray[Any], where: object, option: str
) -> tuple[Scale, ...]:
    """How to bring each axis [A] to metres, radians and fractions.

    Args:
        robot: `robot_type` of the dataset.
        names: of the axes, as the dataset spells them.
        asked: what the user said: one word of `SCALES` (or `range`) for all, or one per axis with commas between. The
            gripper of a robot that we know stays in percent where one word is said.
        largest: the largest magnitude of each axis in the data [A].
        where: the file and field, for messages.
        option: how the user would have said it, for messages.

    Raises:
        InputError: an unknown word or number of words, or units that cannot be known.
    """
    table = table_of(robot, names)
    words = _asked(asked, names, table, where, option) if asked else _known(names, table, largest)
    unknown = [name for name, word in zip(names, words, strict=True) if word is None]
    if unknown:
        so = " (degrees or range)" if table else ""
        raise InputError(
            where,
            expected="axes whose units are known",
            got=f"{', '.join(unknown)} of robot {robot!r}",
            remedy=f"Say them as `?{option}=` with one word or one per axis{so}: {', '.join((*SCALES, RANGE))}; "
            f"or none, to leave these numbers out.",
        )
    limits = table or (None,) * len(names)
    return tuple(_scale(word, axis, where) for word, axis in zip(words, limits, strict=True) if word is not None)


def converted(values: NDArray[Any], scales: Sequence[Scale]) -> Float32:
    """Rows [..., A] of a dataset in metres, radians and fractions."""
    factor, offset = np.array([s.factor for s in scales]), np.array([s.offset for s in scales])
    out: Float32 = (values.astype(np.float64) * factor + offset).astype(np.float32)
    return out


def _asked(
    asked: str, names: Sequence[str], table: Sequence[Axis] | None, where: object, option: str
) -> list[str | None]:
    words = asked.split(",")
    known = (*SCALES, RANGE)
    for word in words:
        if word not in known:
            expected, hint = f"units of `?{option}=` that are known", did_you_mean(word, known)
            raise InputError(where, expected=expected, got=repr(word), remedy=hint)
    if len(words) == 1:
        return [_unless_gripper(words[0], name, table) for name in names]
    if len(words) != len(names):
        expected = f"one unit for each of {len(names)} axes ({', '.join(names)})"
        raise InputError(where, expected=expected, got=str(len(words)), remedy=f"Correct `?{option}=`.")
    return list(words)


def _known(names: Sequence[str], table: Sequence[Axis] | None, largest: NDArray[Any]) -> list[str | None]:
    if table is not None:
        joints = [not name.endswith(("gripper", "gripper.pos")) for name in names]
        degrees = all(n.startswith("main_") for n in names) or bool((np.abs(largest)[joints] > _FULL).any())
        return [_unless_gripper("degrees" if degrees else None, name, table) for name in names]
    endings = [re.search(r"_[a-z]+$", name.removesuffix(".pos")) for name in names]
    return [_SUFFIXES.get(found[0]) if found else None for found in endings]


def _unless_gripper(word: str | None, name: str, table: Sequence[Axis] | None) -> str | None:
    return "percent" if table is not None and short_name(name) == "gripper" else word


def _scale(word: str, axis: Axis | None, where: object) -> Scale:
    if word != RANGE:
        return SCALES[word]
    if axis is None:
        remedy = f"Only {', '.join(SO_ARMS)} have a range that is known; record in degrees."
        raise InputError(where, expected="a robot whose joints have known limits", got=RANGE, remedy=remedy)
    return Scale(unit=axis.unit, factor=(axis.high - axis.low) / 200, offset=(axis.high + axis.low) / 2)
