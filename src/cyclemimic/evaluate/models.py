"""What is measured and who reads its frames: two Protocols, and asking a model for codes and frames in batches.

Letters in shapes: n pairs, B batch, L tokens of a latent action, S side of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cyclemimic.evaluate.moments import Pairs
from cyclemimic.nn.batches import pixels
from cyclemimic.train.progress import Progress
from cyclemimic.types import Int64

BATCH = 128
QUIET_S = 10.0  # what takes no longer says nothing


class LatentActionModel(Protocol):
    """Anything that names the change between two frames and acts a name out on another frame.

    One without frames (a decoder of features, a control without a decoder) says so by an attribute `draws = False`;
    see `draws`.
    """

    @property
    def num_codes(self) -> int:
        """K."""
        ...

    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L] and margin [B] of pairs of frames [B, 3, S, S] in [0, 1]."""
        ...

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """Later frames [B, 3, S, S] from frames now and codes [B, L]."""
        ...


@runtime_checkable
class KnowsFrames(Protocol):
    """A model that knows the frames of one cache beforehand, see evaluate/known_frames.py."""

    def label_known(self, now: Tensor, later: Tensor, row: Int64) -> tuple[Tensor, Tensor]:
        """`label` of frames of the cache, whose rows now and later are [B, 2]."""
        ...


class MotionReader(Protocol):
    """Who reads the generated frames: the judge, or an exact one in tests."""

    @property
    def refused(self) -> bool:
        """Whether its readings prove nothing."""
        ...

    def read(self, now: Tensor, later: Tensor) -> Tensor:
        """Displacement in metres [B, 3] between frames [B, 3, S, S] in [0, 1]."""
        ...

    def distance(self, now: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """How different two later frames look to it [B], given the frame now; 0 for equal ones."""
        ...


def draws(model: LatentActionModel) -> bool:
    """Whether `act_out` gives frames. Where it does not, all that is read from generated frames is NaN."""
    return bool(getattr(model, "draws", True))


@torch.no_grad()
def label_pairs(model: LatentActionModel, pairs: Pairs) -> Int64:
    """The codes [n, L] that the model gives the pairs."""
    now, later, row = pixels(pairs.now), pixels(pairs.later), pairs.row
    if row is None or not isinstance(model, KnowsFrames):
        computed: Int64 = label_frames(model, now, later).numpy()
        return computed
    known = [model.label_known(now[p], later[p], row[p])[0] for p in _batches("label pairs", len(now))]
    codes: Int64 = torch.cat(known).numpy()
    return codes


@torch.no_grad()
def label_frames(model: LatentActionModel, now: Tensor, later: Tensor) -> Tensor:
    """The codes [n, L] of pairs of frames [n, 3, S, S], in batches."""
    return torch.cat([model.label(now[p], later[p])[0] for p in _batches("label pairs", len(now))])


@torch.no_grad()
def act_out(model: LatentActionModel, now: Tensor, codes: Tensor) -> Tensor:
    """Generated frames [n, 3, S, S] in [0, 1], in batches; of a model that draws."""
    assert draws(model), "a model without frames acts nothing out"
    return torch.cat([model.act_out(now[p], codes[p]) for p in _batches("draw frames", len(now))]).clamp(0, 1)


def _batches(says: str, count: int) -> Iterator[slice]:
    """Slices of `count` things, and a line of progress where they take long."""
    progress = Progress(name=says, total=count, quiet_s=QUIET_S)
    for first in range(0, count, BATCH):
        yield slice(first, first + BATCH)
        progress.update(min(first + BATCH, count))
