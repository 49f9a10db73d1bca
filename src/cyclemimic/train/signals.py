"""SIGTERM and SIGINT as a wish: the step is finished, a checkpoint written, and then the run ends. Engineering."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

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


def name_of(number: int) -> str:
    """SIGTERM for 15."""
    return signal.Signals(number).name
