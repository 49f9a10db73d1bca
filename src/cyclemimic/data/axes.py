"""What the actions of a source are like, axis by axis: spread, limits, and what looks wrong. Numpy only. Engineering.

Letters in shapes: n rows of actions, A axes, B bins of a histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cyclemimic.types import ActionSpace, Float32, Float64, Int64

ROWS = 400  # of a clip that are kept, spread evenly
BINS = 24
SATURATED = 0.05  # share of the actions that lie at one end of what was seen
_LEAST_ROWS = 50  # of few actions one always lies at an end
_END = 0.005  # of the spread: how near an end is
_MOST_M, _MOST_RAD = 5.0, 4 * np.pi  # beyond, metres are millimetres and radians degrees


@dataclass(frozen=True, kw_only=True)
class ActionRows:
    """Some actions of a clip [n, A] and what they mean; `space` None: the source does not say."""

    rows: Float32
    space: ActionSpace | None


@dataclass(frozen=True, kw_only=True)
class AxisFound:
    """One axis as it was seen."""

    name: str
    unit: str
    kind: str
    least: float
    most: float
    middle: float
    inner: tuple[float, float]  # 1st and 99th percentile, what normalisation goes by
    counts: Int64  # [B], between `inner`, widened by a tenth
    edges: Float64  # [B + 1]
    at_ends: tuple[float, float]  # share of the actions at the least and at the most
    remarks: tuple[str, ...]


def rows_of(actions: Float32 | None, space: ActionSpace | None) -> ActionRows | None:
    """At most `ROWS` actions of a clip [T - 1, A], spread evenly; None where there are none."""
    if actions is None or not len(actions):
        return None
    places = np.unique(np.linspace(0, len(actions) - 1, min(ROWS, len(actions))).astype(int))
    return ActionRows(rows=np.array(actions[places], np.float32), space=space)


def axes_found(clips: Sequence[ActionRows]) -> tuple[AxisFound, ...]:
    """The axes of clips of one width."""
    rows = np.concatenate([clip.rows for clip in clips]).astype(np.float64)
    space = clips[0].space
    return tuple(_axis(rows[:, i], i, space) for i in range(rows.shape[1]))


def _axis(values: Float64, number: int, space: ActionSpace | None) -> AxisFound:
    axis = space.axes[number] if space else None
    low, high = (float(v) for v in np.quantile(values, (0.01, 0.99)))
    least, most = float(values.min()), float(values.max())
    room = max(0.05 * (high - low), 1e-9 + 1e-6 * abs(high))
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low - room, high + room))
    spread = most - least
    near = _END * spread
    at_ends = (float((values <= least + near).mean()), float((values >= most - near).mean())) if spread else (1.0, 1.0)
    unit = axis.unit if axis else "?"
    return AxisFound(
        name=axis.name if axis else f"axis {number}",
        unit=unit,
        kind=axis.kind if axis else "?",
        least=least,
        most=most,
        middle=float(np.median(values)),
        inner=(low, high),
        counts=counts.astype(np.int64),
        edges=edges,
        at_ends=at_ends,
        remarks=_remarks(values, unit, at_ends),
    )


def _remarks(values: Float64, unit: str, at_ends: tuple[float, float]) -> tuple[str, ...]:
    if values.max() - values.min() < 1e-6:
        return ("never changes",)
    out: list[str] = []
    # A gripper is open or closed, and a robot at rest commands the same place: only two ends in a row are suspicious.
    two_valued = len(np.unique(values.round(4))) <= 3
    if unit != "fraction" and not two_valued and len(values) >= _LEAST_ROWS:
        for share, end in zip(at_ends, ("lower", "upper"), strict=True):
            if share >= SATURATED:
                out.append(f"{share:.0%} lie at the {end} end")
    largest = float(np.abs(np.quantile(values, (0.01, 0.99))).max())
    if (unit == "m" and largest > _MOST_M) or (unit == "rad" and largest > _MOST_RAD):
        out.append(f"{largest:.3g} {unit} is much: another unit?")
    return tuple(out)
