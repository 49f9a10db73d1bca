"""Pairs of other bodies that got the nearest latent action: motions that should look alike, for people to look at.

Letters in shapes: n pairs, L tokens of a latent action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cyclemimic.evaluate.moments import Pairs
from cyclemimic.evaluate.sheets import picture_grid
from cyclemimic.randomness import rng_for
from cyclemimic.types import Int64

_LIVELY = 1 / 3  # of a body's pairs, those in which most pixels change, are asked about


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """The pair of another body that was drawn among those whose codes differ in the fewest slots."""

    pair: int
    differ: int  # slots of L
    ties: int  # pairs of that body that differ in no more


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """A pair, and its neighbour on each other body, in the order of `Pairs.bodies`."""

    query: int
    found: tuple[Neighbour, ...]


def neighbours(pairs: Pairs, codes: Int64, *, seed: int, per_body: int = 2) -> list[Neighbours]:
    """Draw `per_body` lively pairs of each body; of codes [n, L], the nearest of every other body, ties by lot.

    By lot and not by eye: what is shown is what one gets.
    """
    rng = rng_for(seed, 0, "evaluate/neighbours")
    changed = np.abs(pairs.later.astype(np.int16) - pairs.now).mean((1, 2, 3))
    asked: list[int] = []
    for body in pairs.bodies:
        own = pairs.of_body(body)
        lively = own[np.argsort(-changed[own], kind="stable")][: max(1, int(len(own) * _LIVELY))]
        asked += rng.permutation(lively)[:per_body].tolist() if len(own) else []
    return [
        Neighbours(
            query=query,
            found=tuple(
                _nearest(pairs.of_body(body), codes, query, rng)
                for body in pairs.bodies
                if body != pairs.bodies[pairs.body[query]] and len(pairs.of_body(body))
            ),
        )
        for query in asked
    ]


def _nearest(among: Int64, codes: Int64, query: int, rng: np.random.Generator) -> Neighbour:
    differ = (codes[among] != codes[query]).sum(1)
    tied = among[differ == differ.min()]
    return Neighbour(pair=int(rng.choice(tied)), differ=int(differ.min()), ties=len(tied))


def neighbour_sheet(pairs: Pairs, codes: Int64, *, seed: int, per_body: int = 2) -> bytes:
    """A row for each query: its frames now and later, then those of its neighbour on each other body."""
    grid, captions = [], []
    for row in neighbours(pairs, codes, seed=seed, per_body=per_body):
        shown = [row.query, *(found.pair for found in row.found)]
        grid.append([picture for i in shown for picture in (pairs.now[i], pairs.later[i])])
        words = [f"{_body(pairs, row.query)}, code {' '.join(str(c) for c in codes[row.query])}"]
        words += [f"{_body(pairs, f.pair)}: {f.differ} differ, one of {f.ties}" for f in row.found]
        captions.append(";  ".join(words))
    wide = max(len(row) for row in grid) // 2
    return picture_grid(grid, captions=captions, columns=["query, now", "later", *["now", "later"] * (wide - 1)])


def _body(pairs: Pairs, i: int) -> str:
    return pairs.bodies[int(pairs.body[i])]
