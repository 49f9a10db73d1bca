"""Which clips are for training, which for choosing, which for the test: by recording, never by frame. Engineering."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cyclemimic.errors import InputError
from cyclemimic.randomness import draw_for
from cyclemimic.store.clips import names_of
from cyclemimic.types import ClipInfo, Int64

_PART = re.compile(r"[-_.]+part[-_]?\d+(?=\.[^./]*$|$)")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Indices of the clips of each side, ascending; together all clips, each once."""

    train: Int64
    val: Int64
    test: Int64


def recording_of(clip: ClipInfo) -> str:
    """What must stay on one side of a split: the clip's name without a part number ('x__part3.mp4')."""
    return _recording(clip.name)


def _recording(name: str) -> str:
    return _PART.sub("", name) if "part" in name else name


def split_clips(
    clips: Sequence[ClipInfo],
    held_out_fraction: float,
    seed: int,
    *,
    group: Callable[[ClipInfo], str] = recording_of,
) -> Split:
    """Hold out about `held_out_fraction` of the clips, half of them for validation and half for the test.

    A clip's side depends on nothing but `seed` and its group's name, so new clips never move old ones. With
    few clips a side may therefore come out empty.
    """
    if not 0 <= held_out_fraction < 1:
        expected = "a fraction in [0, 1)"
        raise InputError("held_out_fraction", expected=expected, got=str(held_out_fraction), remedy="Try 0.2.")
    if group is recording_of:
        groups = (_recording(name) for name in names_of(clips))
    else:
        groups = (group(clip) for clip in clips)
    draws = np.fromiter((draw_for(seed, name) for name in groups), np.float64, len(clips))
    test, held_out = draws < held_out_fraction / 2, draws < held_out_fraction
    sides = (~held_out, held_out & ~test, test)
    train, val, test_side = (np.flatnonzero(side).astype(np.int64) for side in sides)
    return Split(train=train, val=val, test=test_side)
