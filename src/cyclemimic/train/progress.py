"""Says what runs, how far it is, and how long is left: a line, rewritten on a terminal, repeated sparsely in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


def duration(seconds: float) -> str:
    """A length of time as a person says it: 8s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


@dataclass(kw_only=True)
class Progress:
    """Progress of `total` units of work, `done` of them from an earlier run; work below `quiet_s` seconds is silent."""

    name: str
    total: int
    done: int = 0
    every_s: float = 10.0
    quiet_s: float = 0.0
    _began_s: float = field(default_factory=time.monotonic)
    _said_s: float = 0.0
    _first: int = -1

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Report that `done` units are finished; prints only when enough time has passed or all is done."""
        if self._first < 0:
            self._first = self.done
        self.done = done
        now_s = time.monotonic()
        if now_s - self._began_s < self.quiet_s:
            return
        if done < self.total and now_s - self._said_s < (0.5 if sys.stderr.isatty() else self.every_s):
            return
        self._said_s = now_s
        spent_s = now_s - self._began_s
        worked = max(1, done - self._first)
        left = duration(spent_s / worked * (self.total - done))
        shown = "  ".join(f"{k} {v:.4g}" for k, v in (figures or {}).items())
        end = "\r" if sys.stderr.isatty() and done < self.total else "\n"
        print(
            f"[{self.name}] {done}/{self.total}  {shown}  {duration(spent_s)} spent, {left} left",
            end=end,
            file=sys.stderr,
            flush=True,
        )


class Waiting:
    """How long a step waited for its data: `with waiting: batch = ...`, then log `data_wait_s=waiting.taken()`.

    The loop turns the figure `data_wait_s` into `data_wait_share`, the share of the wall time. Engineering.
    """

    def __init__(self) -> None:
        self._spent_s = self._began_s = 0.0

    def __enter__(self) -> Waiting:
        self._began_s = time.monotonic()
        return self

    def __exit__(self, *ended: object) -> None:
        self._spent_s += time.monotonic() - self._began_s

    def taken(self) -> Tensor:
        """Seconds waited since this was last asked, as a figure."""
        spent_s, self._spent_s = self._spent_s, 0.0
        return torch.tensor(spent_s, dtype=torch.float64)
