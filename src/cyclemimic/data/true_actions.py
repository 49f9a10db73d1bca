"""The true motion of a small share of clips, for the term that names codes by a few labels. Engineering.

Which clips are labelled is a pure function of (seed, clip's name): a resumed run, another process and a longer list of
clips label the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.randomness import draw_for
from cyclemimic.types import ClipInfo, Float32, Int64


@dataclass(frozen=True, kw_only=True)
class TrueActions:
    """What is known of motion, and how much of it may be used.

    Args:
        places: clip's name -> a quantity per frame [T, A] of which the action is the difference, such as the hand's
            place in metres. Clips that it leaves out are never labelled.
        share: of the clips that are labelled, in [0, 1].
    """

    places: Mapping[str, NDArray[np.floating[Any]]]
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            expected, remedy = "a share of clips in (0, 1]", "Try 0.02, or give no true actions."
            raise InputError("TrueActions.share", expected=expected, got=str(self.share), remedy=remedy)

    def labelled(self, name: str, seed: int) -> bool:
        """Whether this clip's motion is known."""
        # The purpose in the name: the draw of `split_clips` must not decide this one.
        return name in self.places and draw_for(seed, f"true actions\0{name}") < self.share


@dataclass(frozen=True, kw_only=True)
class ActionTable:
    """The true actions of some clips, ready to be looked up by pair; `std` [A] is what they were divided by."""

    places: Float32  # [rows, A], frames of labelled clips, clip after clip
    first: Int64  # [clips], row of each clip's first frame; -1 where nothing is known
    std: Float32  # [A]

    def of(self, clip: Int64, now: Int64, later: Int64) -> tuple[Float32, NDArray[np.bool_]]:
        """Actions [B, A], 0 where unknown, and which are known [B]."""
        known = self.first[clip] >= 0
        actions = np.zeros((len(clip), self.places.shape[1]), np.float32)
        first = self.first[clip[known]]
        actions[known] = (self.places[first + later[known]] - self.places[first + now[known]]) / self.std
        return actions, known


def action_table(
    true: TrueActions, clips: Sequence[ClipInfo], seed: int, clip: Int64, now: Int64, later: Int64
) -> ActionTable:
    """Look up the labelled clips among those of the pairs (clip, now, later) [n], and scale by their pairs.

    Raises:
        InputError: no clip of these is labelled, or a clip's quantity is not one finite row per frame.
    """
    used = np.unique(clip)
    first = np.full(len(clips), -1, np.int64)
    rows: list[NDArray[np.float64]] = []
    num_rows = 0
    for i in used:
        if true.labelled(clips[i].name, seed):
            place = _checked(clips[i], true.places[clips[i].name], rows)
            first[i] = num_rows
            rows.append(place)
            num_rows += len(place)
    if not rows:
        known = sum(clips[i].name in true.places for i in used)
        raise InputError(
            "TrueActions.share",
            expected="at least one labelled clip",
            got=f"none of {known} clips with known motion at a share of {true.share}",
            remedy="Give a larger share." if known else "Give the motion by the clips' names, such as 'arm/1.mp4'.",
        )
    names = [clips[i].name for i in used if first[i] >= 0]
    if len(set(names)) < len(names):
        remedy = "Two sources share a clip's name; rename one of them."
        raise InputError("TrueActions.places", expected="unique clip names", got=repr(names), remedy=remedy)
    places = np.concatenate(rows)
    mine = first[clip] >= 0
    start = first[clip[mine]]
    std = (places[start + later[mine]] - places[start + now[mine]]).std(0)
    std[std < 1e-9] = 1.0  # an axis that never moves stays zero
    # Centred before it is rounded: places may lie far from the origin.
    return ActionTable(places=(places - places.mean(0)).astype(np.float32), first=first, std=std.astype(np.float32))


def _checked(
    clip: ClipInfo, place: NDArray[np.floating[Any]], before: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    where = f"TrueActions.places of clip {clip.name!r}"
    width = before[0].shape[1] if before else place.shape[1] if place.ndim == 2 else 0
    if place.shape != (clip.num_frames, width) or width < 1:
        axes = width or "A"
        expected, remedy = f"[{clip.num_frames}, {axes}]", "Give one row per frame, as wide for every clip."
        raise InputError(where, expected=expected, got=str(place.shape), remedy=remedy)
    if not np.isfinite(place).all():
        bad = np.argwhere(~np.isfinite(place))[0].tolist()
        remedy = "Correct that frame, or leave the clip out."
        raise InputError(where, expected="finite numbers", got=f"NaN or infinity at index {bad}", remedy=remedy)
    return place.astype(np.float64)
