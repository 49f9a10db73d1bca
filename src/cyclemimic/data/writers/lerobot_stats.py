"""The statistics that LeRobot keeps beside its data, per episode and of all together. Engineering.

Letters in shapes: T frames, H W picture, D numbers of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.types import UInt8

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_PICTURES, _SIDE_PX = 100, 150  # as many pictures are looked at, and about so many rows and columns of each

Stats = dict[str, NDArray[Any]]


def stats_of_numbers(rows: NDArray[Any]) -> Stats:
    """Statistics [D] of rows [T, D]."""
    rows = rows.astype(np.float64)
    return _stats(rows, len(rows))


def stats_of_pictures(frames: UInt8) -> Stats:
    """Statistics [3, 1, 1] of frames [T, H, W, 3] as shares of full brightness, of some frames and some pixels."""
    some = frames[np.unique(np.linspace(0, len(frames) - 1, _PICTURES).round().astype(int))]
    step = max(1, max(frames.shape[1:3]) // _SIDE_PX)
    pixels = some[:, ::step, ::step].reshape(-1, 3) / 255
    found = _stats(pixels, len(some))
    return {name: value if name == "count" else value[:, None, None] for name, value in found.items()}


def merged(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Stats:
    """Statistics of all episodes from those of each; quantiles by their weighted mean, as LeRobot itself does."""
    count = np.array([part["count"][0] for part in parts], np.float64)
    weight = (count / count.sum()).reshape(-1, *(1,) * parts[0]["mean"].ndim)
    stack = {name: np.stack([part[name] for part in parts]) for name in parts[0] if name != "count"}
    mean = (stack["mean"] * weight).sum(0)
    variance = ((stack["std"] ** 2 + (stack["mean"] - mean) ** 2) * weight).sum(0)
    return {
        "min": stack["min"].min(0),
        "max": stack["max"].max(0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(count.sum())]),
        **{name: (stack[name] * weight).sum(0) for name in QUANTILES},
    }


def _stats(rows: NDArray[np.float64], count: int) -> Stats:
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        "count": np.array([count]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
