"""Unity beyond agreement: do codes find equal motions on other bodies, and do bodies use codes alike?

Letters in shapes: n pairs, B bodies, a anchors, L tokens of a latent action, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclemimic.evaluate.probes import Labelled, mean_or_nan
from cyclemimic.randomness import rng_for
from cyclemimic.types import Int64

WITHIN_M = 0.01  # displacements this near are the same motion
_SHUFFLES, _LEAST_ANCHORS = 10, 20


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Mean average precision over queries, and what a random order reaches."""

    mean_precision: float
    chance: float


def retrieval(
    test: Labelled,
    bodies: Iterable[str],
    *,
    seed: int,
    within_m: float = WITHIN_M,
    moving_m: float = 0.02,
    queries: int = 400,
) -> Retrieval:
    """Rank the pairs of all other bodies by how many slots differ from the query's; right are those that moved alike.

    Queries are pairs that move at least `moving_m` and have a right answer. Slots and not vectors are compared, so
    that every tokenizer and control is asked the same; equal distances count as in random order, in expectation.
    """
    bodies = sorted(set(bodies) & set(test.body.tolist()))
    kept = np.isin(test.body, bodies)
    codes, moved, body = test.codes[kept], test.displacement_m[kept], test.body[kept]
    lively = np.flatnonzero(np.linalg.norm(moved, axis=1) >= moving_m)
    asked = np.sort(rng_for(seed, 0, "evaluate/queries").permutation(lively)[:queries])
    found, chance = [], []
    for query in asked:
        others = body != body[query]
        right = np.linalg.norm(moved[others] - moved[query], axis=1) < within_m
        if right.any():
            differ = (codes[others] != codes[query]).sum(1)
            found.append(expected_precision(differ, right))
            chance.append(expected_precision(np.zeros_like(differ), right))
    return Retrieval(mean_precision=mean_or_nan(found), chance=mean_or_nan(chance))


def expected_precision(distance: Int64, right: NDArray[np.bool_]) -> float:
    """Average precision of the order by `distance` [n], ties in random order: its expectation, exactly.

    McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of tied
    scores", 2008.
    """
    before, right_before, total = 0, 0, 0.0
    for level in np.unique(distance):
        tied = distance == level
        n, r = int(tied.sum()), int(right[tied].sum())
        if r:
            place = np.arange(n)
            right_so_far = right_before + 1 + place * ((r - 1) / max(1, n - 1))
            total += float((right_so_far / (before + 1 + place)).sum()) * r / n
        before, right_before = before + n, right_before + r
    return total / max(1, right_before)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Jensen-Shannon divergence of the bodies' codes, mean over slots: 0 for equal shares, 1 for no code in common.

    What bodies drawn at random diverge by is taken off, or few pairs would look like many. Never evidence alone:
    bodies that use codes alike need not mean the same by them.
    """

    raw: float
    matched: float


def divergence(test: Labelled, bodies: Iterable[str], *, seed: int, within_m: float = WITHIN_M) -> Divergence:
    """Of all pairs of `bodies`, and of pairs matched by true action, which takes out that bodies do other things."""
    bodies = sorted(set(bodies) & set(test.body.tolist()))
    if len(bodies) < 2:
        return Divergence(raw=math.nan, matched=math.nan)
    rng = rng_for(seed, 0, "evaluate/divergence")
    groups = [test.of(body).codes for body in bodies]
    sizes, pool = np.cumsum([len(g) for g in groups])[:-1], np.concatenate(groups)
    chance = [jensen_shannon(np.split(rng.permutation(pool), sizes), test.num_codes) for _ in range(_SHUFFLES)]
    raw = jensen_shannon(groups, test.num_codes) - float(np.mean(chance))
    matched = test.codes[matched_pairs(test, bodies, within_m=within_m)]  # [a, B, L]
    if len(matched) < _LEAST_ANCHORS:
        return Divergence(raw=raw, matched=math.nan)
    # Within rows, that is among equal motions, the body must not matter.
    chance = [
        jensen_shannon(list(rng.permuted(matched, axis=1).swapaxes(0, 1)), test.num_codes) for _ in range(_SHUFFLES)
    ]
    apart = jensen_shannon(list(matched.swapaxes(0, 1)), test.num_codes)
    return Divergence(raw=raw, matched=apart - float(np.mean(chance)))


def matched_pairs(test: Labelled, bodies: Sequence[str], *, within_m: float = WITHIN_M) -> Int64:
    """Indices [a, B]: rows of pairs that moved alike, one of each body, around every pair for which there are such."""
    columns = []
    for body in bodies:
        own = np.flatnonzero(test.body == body)
        if not len(own):
            return np.zeros((0, len(bodies)), np.int64)
        away = np.linalg.norm(test.displacement_m[:, None] - test.displacement_m[own][None], axis=-1)
        nearest = away.argmin(1)
        columns.append(np.where(away.min(1) < within_m, own[nearest], -1))
    table = np.stack(columns, axis=1)
    whole: Int64 = table[(table >= 0).all(1) & np.isin(test.body, bodies)]
    return whole


def shares(codes: Int64, num_codes: int) -> NDArray[np.float64]:
    """How often each code occurs in each slot, [L, K], from codes [n, L]."""
    return np.stack([np.bincount(slot, minlength=num_codes) / len(codes) for slot in codes.T])


def jensen_shannon(groups: Sequence[Int64], num_codes: int) -> float:
    """Of the groups' shares of codes [n, L], mean over slots, in units of log B."""
    each = np.stack([shares(codes, num_codes) for codes in groups])  # [B, L, K]
    spread = _entropy(each.mean(0)) - _entropy(each).mean(0)
    return float(spread.mean()) / math.log(len(groups))


def _entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    entropy: NDArray[np.float64] = -(share * np.log(np.where(share > 0, share, 1.0))).sum(-1)
    return entropy
