"""SIGTERM and SIGINT as a wish: the step is finished, a checkpoint written, and then the run ends; or, where whatever
is written appears whole, the work ends at once. Engineering.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from cyclemimic.train.endings import RunInterruptedError

HEEDED = (signal.SIGTERM, signal.SIGINT)
_ECHO_S = 2.0  # launchers pass a signal on that the terminal or the scheduler has sent to all: that is still one wish


class Signals:
    """Within its block a signal is noted instead of obeyed; who sends another later does not want to wait.

    Only the main thread of a program may do so; in another thread signals stay what they were.
    """

    def __init__(self) -> None:
        self.caught = 0  # the number of the signal, 0 while there was none
        self._caught_s = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in HEEDED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.caught:
            self.caught, self._caught_s = number, time.monotonic()
        elif time.monotonic() - self._caught_s > _ECHO_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def ended_at_once(kept: str) -> Iterator[None]:
    """Within this block SIGTERM and SIGINT end the work where it stands, for files that appear whole or not at all.

    Args:
        kept: what is not lost, as a sentence for the message.

    Raises:
        RunInterruptedError: there was such a signal. The same command goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple[int, float]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not caught or time.monotonic() - caught[0][1] > _ECHO_S:
            caught.append((number, time.monotonic()))
            raise KeyboardInterrupt  # no `except` for errors holds it up

    before = {number: signal.signal(number, stop) for number in HEEDED}
    try:
        yield
    except KeyboardInterrupt:
        number = caught[0][0] if caught else int(signal.SIGINT)
        raise RunInterruptedError(f"{name_of(number)}: stopped. {kept} The same command goes on.") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def name_of(number: int) -> str:
    """SIGTERM for 15."""
    return signal.Signals(number).name
