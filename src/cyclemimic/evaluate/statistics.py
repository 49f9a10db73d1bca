"""What n episodes can tell: intervals of a rate, and the exact test of two arms on the same starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cyclemimic.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SuccessRow:
    """A success rate and its 95 % Wilson interval over `n` episodes; `errors` ended in an exception."""

    rate: float
    low: float
    high: float
    n: int
    errors: int

    def __str__(self) -> str:
        """Such as '75 % (64-84), n 72'."""
        if not self.n:
            return "no episodes"
        errors = f", {self.errors} errors" if self.errors else ""
        return f"{self.rate:.0%} ({self.low * 100:.0f}-{self.high * 100:.0f}), n {self.n}{errors}"


def success_row(successes: int, n: int, errors: int = 0) -> SuccessRow:
    """Rate and interval of `successes` among `n`; an episode that ended in an error is no success."""
    low, high = wilson(successes, n)
    return SuccessRow(rate=successes / n if n else math.nan, low=low, high=high, n=n, errors=errors)


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a rate; (0, 1) where nothing was tried.

    Raises:
        InputError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise InputError("wilson", expected="0 <= successes <= n", got=f"{successes} of {n}", remedy="Count again.")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two arms on the same starts: how often only one of them succeeded, and the exact two-sided p."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact McNemar test: among the starts where the arms differ, is a coin fair?

    Raises:
        InputError: the arms ran another number of starts.
    """
    if len(first) != len(second):
        raise InputError(
            "mcnemar", expected="both arms on the same starts", got=f"{len(first)} and {len(second)}",
            remedy="Run both with the same list of tasks.",
        )  # fmt: skip
    one = sum(a and not b for a, b in zip(first, second, strict=True))
    two = sum(b and not a for a, b in zip(first, second, strict=True))
    n = one + two
    tail = sum(math.comb(n, k) for k in range(min(one, two) + 1)) / 2**n
    return McNemar(only_first=one, only_second=two, p=min(1.0, 2 * tail))
