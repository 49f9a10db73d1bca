"""Batches made ahead by a thread while the step before trains; waiting time is measured. Engineering."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from cyclemimic.errors import InputError

Batch = TypeVar("Batch")


class Prefetcher(Generic[Batch]):
    """Gives what `make(step)` gives, bit for bit, and prepares the next steps meanwhile.

    Any step may be asked for, so a resumed run simply begins at its own; asking in ascending order is what makes it
    fast. What `make` raises is raised when its step is asked for. `make` runs in one thread, one step at a time.

    Args:
        make: such as `PairLoader.batch`; a pure function of the step.
        ahead: how many steps are prepared.
        stop: the first step that is never asked for; None: there is no last one.
    """

    def __init__(self, make: Callable[[int], Batch], *, ahead: int = 2, stop: int | None = None) -> None:
        if ahead < 1:
            raise InputError("Prefetcher.ahead", expected="at least 1", got=str(ahead), remedy="Try 2.")
        self._make, self._ahead, self._stop = make, ahead, stop
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: dict[int, Future[Batch]] = {}
        self.waited_s = 0.0  # how long `batch` has kept its caller, all steps together

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        wanted = range(step, step + 1 + self._ahead)
        for other in [s for s in self._coming if s not in wanted]:
            self._coming.pop(other).cancel()
        for next_step in wanted:
            if next_step not in self._coming and (next_step == step or self._stop is None or next_step < self._stop):
                self._coming[next_step] = self._pool.submit(self._make, next_step)
        began_s = time.perf_counter()
        try:
            return self._coming.pop(step).result()
        finally:
            self.waited_s += time.perf_counter() - began_s

    def close(self) -> None:
        """Drop what is prepared, and wait for the thread to end."""
        self._coming.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetcher[Batch]:
        """Close at the end of the block, whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
