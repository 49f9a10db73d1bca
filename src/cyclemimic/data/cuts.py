"""Where a clip's shot ends and another begins, so that no pair lies across a cut. Numpy only. Engineering.

A cut changes layout (means of blocks, whatever small shift fits best: a camera may pan) and colours (a histogram) by
far more than the frames around it change, and it stays: after a flash of one or two frames the old picture is back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import read_json, write_json
from cyclemimic.store.flow_cache import frames_hash
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.types import Float32, Int64, UInt8

GRID = 16  # blocks a side
SHIFT = 2  # blocks that a picture may have moved by between two frames
COLOURS = 4  # steps of each channel in the histogram
HISTOGRAM_WEIGHT = 0.15
LEAST = 0.05  # change of a cut in a still scene, of 1
OVER_NEIGHBOURS = 3.0  # how many times the usual change around it a cut exceeds on top
NEIGHBOURS = 5  # frames on each side
METHOD = f"blocks {GRID} shift {SHIFT}, histogram {COLOURS} at {HISTOGRAM_WEIGHT}, {LEAST} + {OVER_NEIGHBOURS} usual"
_CHUNK_FRAMES = 256


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What is compared of T frames: means of blocks [T, g, g, 3] in [0, 1], and shares of colours [T, COLOURS ** 3]."""

    blocks: Float32
    colours: Float32

    def __getitem__(self, stretch: slice) -> Looks:
        """Of some of the frames."""
        return Looks(blocks=self.blocks[stretch], colours=self.colours[stretch])

    @classmethod
    def joined(cls, parts: Sequence[Looks]) -> Looks:
        """Of frames one behind the other, as if they were one clip."""
        return cls(blocks=np.concatenate([p.blocks for p in parts]), colours=np.concatenate([p.colours for p in parts]))


def looks_of(frames: UInt8) -> Looks:
    """The looks of frames [T, S, S, 3], T >= 1; each frame's own, so they may be joined in any order afterwards."""
    return Looks.joined([_look(frames[i : i + _CHUNK_FRAMES]) for i in range(0, len(frames), _CHUNK_FRAMES)])


class Changes:
    """How much changes from frame to frame of a clip; limits may be tried on it one after the other."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._change = _change(looks[:-1], looks[1:])
        self._usual = _usual(self._change)
        self._across: dict[int, float] = {}

    def cuts(self, least: float = LEAST, over_neighbours: float = OVER_NEIGHBOURS) -> Int64:
        """The frames with which a new shot begins, ascending; the first shot begins unsaid."""
        limit = least + over_neighbours * self._usual
        first = np.flatnonzero(self._change > limit) + 1
        return np.array([t for t in first.tolist() if self._stays(t) > limit[t - 1]], np.int64)

    def _stays(self, t: int) -> float:
        """How much the frames around t differ across it too: the old picture is not back, and was not about to come."""
        if t not in self._across:
            around = ((t - 2, t), (t - 1, t + 1), (t - 3, t), (t - 1, t + 2))
            pairs = [(a, b) for a, b in around if a >= 0 and b < len(self._looks.blocks)]
            before, after = ([pair[i] for pair in pairs] for i in (0, 1))
            blocks, colours = self._looks.blocks, self._looks.colours
            change = _change(
                Looks(blocks=blocks[before], colours=colours[before]),
                Looks(blocks=blocks[after], colours=colours[after]),
            )
            self._across[t] = float(change.min()) if pairs else np.inf
        return self._across[t]


def find_cuts(frames: UInt8) -> Int64:
    """The frames of [T, S, S, 3] with which a new shot begins, ascending; the first shot begins unsaid."""
    return Changes(looks_of(frames)).cuts() if len(frames) > 1 else np.empty(0, np.int64)


def cuts_of(cache: FrameCache, path: Path | None = None, progress: Callable[[str], None] | None = None) -> list[Int64]:
    """The cuts of every clip of a frame cache.

    Args:
        cache: where the frames lie.
        path: a JSON file that keeps them; it is written anew when frames or method differ.
        progress: is given a line at the end.
    """
    if path is not None and (known := kept_cuts(cache, path)) is not None:
        return known
    found = [find_cuts(cache.clip_frames(i)) for i in range(len(cache))]
    if path is not None:
        write_json(path, {**_facts(cache), "cuts": [cuts.tolist() for cuts in found]})
    if progress is not None:
        progress(f"{sum(map(len, found))} cuts in {sum(len(c) > 0 for c in found)} of {len(found)} clips")
    return found


def kept_cuts(cache: FrameCache, path: Path) -> list[Int64] | None:
    """The cuts that `cuts_of` kept; None where there are none of these frames by this method."""
    if not path.exists():
        return None
    try:
        kept = read_json(path)
        if all(kept.get(name) == fact for name, fact in _facts(cache).items()):
            return [np.array(cuts, np.int64) for cuts in kept["cuts"]]
    except (InputError, KeyError, ValueError):
        pass  # damaged: finding them again is the remedy
    return None


def _facts(cache: FrameCache) -> dict[str, str]:
    return {"frames_sha256": frames_hash(cache), "method": METHOD}


def _look(frames: UInt8) -> Looks:
    count, side = len(frames), frames.shape[1]
    grid = min(GRID, side)
    edges = np.arange(grid) * side // grid
    rows = np.add.reduceat(frames, edges, 1, dtype=np.uint32)
    area = np.diff(edges, append=side)
    blocks = np.add.reduceat(rows, edges, 2) / (255.0 * area[:, None, None] * area[:, None])
    step = frames.astype(np.int64) * COLOURS // 256
    colour = (step[..., 0] * COLOURS + step[..., 1]) * COLOURS + step[..., 2]
    numbered = colour.reshape(count, -1) + np.arange(count)[:, None] * COLOURS**3
    counts = np.bincount(numbered.ravel(), minlength=count * COLOURS**3).reshape(count, -1)
    return Looks(blocks=blocks.astype(np.float32), colours=(counts / side**2).astype(np.float32))


def _change(before: Looks, after: Looks) -> Float32:
    """How much n pictures changed [n], of about 1: blocks under their best shift, and colours."""
    grid = before.blocks.shape[1]
    least = np.full(len(before.blocks), np.inf, np.float32)
    for dy in range(-SHIFT, SHIFT + 1):
        for dx in range(-SHIFT, SHIFT + 1):
            one = before.blocks[:, max(0, dy) : grid + min(0, dy), max(0, dx) : grid + min(0, dx)]
            other = after.blocks[:, max(0, -dy) : grid + min(0, -dy), max(0, -dx) : grid + min(0, -dx)]
            if one.size:
                least = np.minimum(least, np.abs(one - other).mean((1, 2, 3)))
    colour: Float32 = least + HISTOGRAM_WEIGHT / 2 * np.abs(before.colours - after.colours).sum(1)
    return colour


def _usual(change: Float32) -> NDArray[np.float64]:
    """The median of the changes around each, itself left out."""
    padded = np.pad(change.astype(np.float64), NEIGHBOURS, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1).copy()
    around[:, NEIGHBOURS] = np.nan
    if len(change) < 2:  # nothing around it
        return np.zeros(len(change))
    usual: NDArray[np.float64] = np.nanmedian(around, 1)
    return usual
