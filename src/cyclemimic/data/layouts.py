"""How the numbers of a dataset become named axes in metres, radians and fractions open. Numpy only. Engineering.

Letters in shapes: T steps, C columns of a feature, A axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.types import ActionSpace, Axis, AxisKind, Float32, SpaceKind


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Neighbouring columns of a feature, one per axis, from `first`; times `scale` they are in the axes' units."""

    feature: str
    axes: tuple[Axis, ...]
    first: int = 0
    scale: float = 1.0

    @property
    def span(self) -> slice:
        """The columns."""
        return slice(self.first, self.first + len(self.axes))

    def numbers(self, feature: NDArray[Any], where: str) -> NDArray[np.float64]:
        """[T, C] to [T, len(axes)]."""
        taken = feature[:, self.span]
        if taken.shape[1] != len(self.axes):
            expected = f"at least {self.first + len(self.axes)} columns"
            remedy = "This is another layout than the convention says; write one of your own."
            raise InputError(where, expected=expected, got=str(feature.shape[1]), remedy=remedy)
        return taken.astype(np.float64) * self.scale


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """One column that opens and closes, as the fraction open: 0 at `closed`, 1 at `opened`, limited between.

    A `relative` one says when to move: beyond a tenth of the way towards `opened` or `closed` the hand goes there, and
    stays until it is told otherwise; before its first movement it is where that movement does not lead.
    """

    feature: str
    closed: float
    opened: float
    column: int = 0
    relative: bool = False
    name: str = "gripper"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The one axis."""
        return (Axis(name=self.name, unit="fraction", low=0.0, high=1.0),)

    @property
    def span(self) -> slice:
        """The column."""
        return slice(self.column, self.column + 1)

    def numbers(self, feature: NDArray[Any], where: str) -> NDArray[np.float64]:
        """[T, C] to [T, 1]."""
        column = Columns(feature=self.feature, axes=self.axes, first=self.column).numbers(feature, where)
        share = (column - self.closed) / (self.opened - self.closed)
        return _held(share) if self.relative else share.clip(0, 1)


def _held(share: NDArray[np.float64]) -> NDArray[np.float64]:
    moves = np.where(share > 0.55, 1.0, np.where(share < 0.45, 0.0, np.nan))[:, 0]
    told = np.flatnonzero(~np.isnan(moves))
    if not len(told):
        return np.ones((len(moves), 1))  # never told: open
    last = np.searchsorted(told, np.arange(len(moves)), side="right") - 1
    held: NDArray[np.float64] = np.where(last < 0, 1 - moves[told[0]], moves[told[last.clip(0)]])[:, None]
    return held


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Axes in order, and where each one's numbers lie."""

    parts: tuple[Columns | Gripper, ...]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes, A."""
        return tuple(axis for part in self.parts for axis in part.axes)

    @property
    def features(self) -> tuple[str, ...]:
        """What must be read."""
        return tuple(dict.fromkeys(part.feature for part in self.parts))

    def space(self, name: str, rate_hz: float, kind: SpaceKind = "pose") -> ActionSpace:
        """The axes as an action space."""
        return ActionSpace(name=name, axes=self.axes, rate_hz=rate_hz, kind=kind)

    def numbers(self, features: Mapping[str, NDArray[Any]], where: object) -> Float32:
        """Numbers [T, A] from features [T, C] by name.

        Raises:
            InputError: a feature is missing, too narrow, or not finite; names it and the step.
        """
        for name in self.features:
            if name not in features:
                hint = f"Features here: {', '.join(sorted(features)) or 'none'}."
                raise InputError(f"{where}, field {name}", expected="this field", got="none", remedy=hint)
        taken = []
        for part in self.parts:
            place = f"{where}, field {part.feature}"
            found = features[part.feature]
            with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite, and is refused
                taken.append(part.numbers(found, place).astype(np.float32))
                unknown = np.argwhere(~np.isfinite(found[:, part.span].astype(np.float32)))
            if len(unknown):
                step, column = unknown[0].tolist()
                got = f"NaN or infinity at step {step}, column {part.span.start + column}"
                raise InputError(place, expected="finite numbers", got=got, remedy="Drop this episode.")
        return np.concatenate(taken, 1)


def position(limit_m: float, kind: AxisKind = "delta") -> tuple[Axis, ...]:
    """Axes x, y, z [m]."""
    return tuple(Axis(name=f"{n}_m", unit="m", low=-limit_m, high=limit_m, kind=kind) for n in "xyz")


def angles(limit_rad: float, kind: AxisKind = "delta") -> tuple[Axis, ...]:
    """Axes roll, pitch, yaw [rad]."""
    names = ("roll", "pitch", "yaw")
    return tuple(Axis(name=n, unit="rad", low=-limit_rad, high=limit_rad, kind=kind) for n in names)


def axis_angle(limit_rad: float, kind: AxisKind = "delta") -> tuple[Axis, ...]:
    """Axes of a rotation as its axis times its angle [rad]."""
    return tuple(Axis(name=f"turn_{n}", unit="rad", low=-limit_rad, high=limit_rad, kind=kind) for n in "xyz")
