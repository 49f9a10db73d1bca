"""How often each source and each body is drawn. Engineering: the paper's mixture is not known; ours favours nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean

Mixture = Literal["uniform", "proportional"] | Mapping[str, float]
Per = Literal["source", "pair"]


@dataclass(frozen=True, kw_only=True)
class SourceWeights:
    """How often each of several sources is drawn.

    Args:
        names: of the sources, for messages.
        weights: one for each, above 0; they need not sum to 1.
        per: `source`: the shares of the draws are as the weights, whatever the sources' sizes. `pair`: a weight
            multiplies the source's number of pairs, so that equal weights draw every pair alike.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    per: Per = "source"

    def __post_init__(self) -> None:
        if self.per not in ("source", "pair"):
            remedy = "With 'source' a weight is a share of the draws, with 'pair' it multiplies the number of pairs."
            raise InputError("weights per", expected="'source' or 'pair'", got=repr(self.per), remedy=remedy)
        if not self.names or len(self.names) != len(self.weights):
            got = f"{len(self.names)} names, {len(self.weights)} weights"
            raise InputError("source weights", expected="one weight for each source", got=got, remedy="Count them.")
        for name, weight in zip(self.names, self.weights, strict=True):
            check_weight(f"source {name!r}, field weight", weight)

    def shares(self, num_pairs: Sequence[int]) -> NDArray[np.float64]:
        """The share of each source in the draws, summing to 1.

        Raises:
            InputError: a source without pairs: its share would silently go to the others.
        """
        for name, count in zip(self.names, num_pairs, strict=True):
            if count < 1:
                remedy = "Leave it out, or give it more or longer clips (some are held out), or a smaller gap."
                raise InputError(f"source {name!r}", expected="pairs to train on", got="none", remedy=remedy)
        weights = np.array(self.weights, np.float64)
        if self.per == "pair":
            weights = weights * np.asarray(num_pairs, np.float64)
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares


def check_weight(where: str, weight: object) -> None:
    """Raise InputError unless `weight` is a finite number above 0."""
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not (number and weight > 0 and math.isfinite(weight)):  # type: ignore[operator, arg-type]
        remedy = "Leave a source out that is not to be drawn."
        raise InputError(where, expected="a finite weight above 0", got=str(weight), remedy=remedy)


def mixture_weights(mixture: Mixture, bodies: Sequence[str], num_pairs: Sequence[int]) -> NDArray[np.float64]:
    """The probability of each body, summing to 1.

    Args:
        mixture: `uniform` over bodies that have pairs, `proportional` to their pairs, or weights by body; a
        body
            that the weights leave out is not drawn.
        bodies: their names.
        num_pairs: how many pairs each has.

    Raises:
        InputError: an unknown body or word, a weight below 0, or weight on bodies without pairs only.
    """
    counts = np.asarray(num_pairs, np.float64)
    if isinstance(mixture, str):
        if mixture not in ("uniform", "proportional"):
            remedy = did_you_mean(mixture, ("uniform", "proportional"))
            raise InputError("mixture", expected="a mixture's name or weights", got=repr(mixture), remedy=remedy)
        weights = (counts > 0).astype(np.float64) if mixture == "uniform" else counts
    else:
        for body, weight in mixture.items():
            if body not in bodies:
                remedy = did_you_mean(body, bodies)
                raise InputError("mixture", expected="bodies of these clips", got=repr(body), remedy=remedy)
            if not (weight >= 0 and math.isfinite(weight)):
                raise InputError(
                    f"mixture, body {body!r}",
                    expected="a weight of at least 0",
                    got=str(weight),
                    remedy="Use 0 to leave it out.",
                )
            if weight > 0 and counts[list(bodies).index(body)] == 0:
                remedy = "Leave it out, or give it longer clips."
                raise InputError(f"mixture, body {body!r}", expected="pairs", got="none", remedy=remedy)
        weights = np.array([mixture.get(body, 0.0) for body in bodies], np.float64)
    if not weights.sum() > 0:
        raise InputError("mixture", expected="a weight above 0", got="none", remedy="Draw at least one body.")
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities
