"""What n episodes can tell, and what n seeds can: intervals, and exact tests of arms on the same starts or seeds."""

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


# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def t_quantile(freedom: int) -> float:
    """How many standard errors 95 % of means lie within, with `freedom` >= 1 degrees of freedom."""
    assert freedom >= 1
    z = 1.959963984540054
    if freedom <= len(_T):
        return _T[freedom - 1]
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True, kw_only=True)
class MeanRow:
    """A mean over `n` seeds and its 95 % t interval; NaN where there are too few."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Such as '0.412 (0.371 to 0.453), n 5'."""
        if not self.n:
            return "-"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f}), n {self.n}" if self.n > 1 else f"{self.mean:.3f}"


def mean_row(values: Sequence[float]) -> MeanRow:
    """Mean and interval of the values that are numbers."""
    known = [v for v in values if math.isfinite(v)]
    n = len(known)
    mean = sum(known) / n if n else math.nan
    if n < 2:
        return MeanRow(mean=mean, low=math.nan, high=math.nan, n=n)
    error = math.sqrt(sum((v - mean) ** 2 for v in known) / (n - 1) / n)
    half = t_quantile(n - 1) * error
    return MeanRow(mean=mean, low=mean - half, high=mean + half, n=n)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A row against its control on the same seeds: means, the difference with its interval, and who won how often.

    `sign_p` is the exact two-sided p of the sign test, which asks nothing of the distribution: with five seeds it is
    never below 1/16.
    """

    control: float
    ours: float
    mean_difference: float
    low: float
    high: float
    wins: int
    losses: int
    n: int
    sign_p: float


def paired(control: Sequence[float], ours: Sequence[float], *, higher_is_better: bool = True) -> Paired:
    """Compare seed by seed; a seed that one side has no number for does not count.

    Raises:
        InputError: the sides have another number of seeds.
    """
    if len(control) != len(ours):
        raise InputError(
            "paired", expected="both rows on the same seeds", got=f"{len(control)} and {len(ours)}",
            remedy="Run both with the same seeds.",
        )  # fmt: skip
    both = [(c, o) for c, o in zip(control, ours, strict=True) if math.isfinite(c) and math.isfinite(o)]
    sign = 1 if higher_is_better else -1
    difference = mean_row([o - c for c, o in both])
    wins = sum(sign * (o - c) > 0 for c, o in both)
    losses = sum(sign * (o - c) < 0 for c, o in both)
    decided = wins + losses
    tail = sum(math.comb(decided, k) for k in range(min(wins, losses) + 1)) / 2**decided
    return Paired(
        control=mean_row([c for c, _ in both]).mean,
        ours=mean_row([o for _, o in both]).mean,
        mean_difference=difference.mean,
        low=difference.low,
        high=difference.high,
        wins=wins,
        losses=losses,
        n=len(both),
        sign_p=min(1.0, 2 * tail),
    )
