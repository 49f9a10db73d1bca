"""How often each body is drawn. Engineering: the paper's mixture is not known; ours favours nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cyclemimic.errors import InputError, did_you_mean

Mixture = Literal["uniform", "proportional"] | Mapping[str, float]


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
