"""How a run may end before its last step: one class and one exit code each (numbers of sysexits.h). Engineering.

None of them is a fault of the code: the command line prints one message, without a traceback, and exits with
`exit_code`. What lies in the run folder is whole.
"""

from __future__ import annotations


class RunEndedError(RuntimeError):
    """A run that could not go on; the message says why and what to do."""

    exit_code = 1


class RunInterruptedError(RunEndedError):
    """A signal asked for an end: a checkpoint is written, and the same command goes on (EX_TEMPFAIL)."""

    exit_code = 75


class ProcessLostError(RunEndedError):
    """Another process of the run died or does not answer (EX_UNAVAILABLE)."""

    exit_code = 69


class NotFiniteError(RunEndedError):
    """The loss or its gradient is not finite; no weight has moved (EX_SOFTWARE).

    Args:
        message: what was found, what is likely and what to do.
        terms: the loss and its terms on this process.
    """

    exit_code = 70

    def __init__(self, message: str, *, terms: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.terms = terms or {}


class OutOfMemoryError(RunEndedError):
    """A step does not fit into memory (EX_OSERR)."""

    exit_code = 71


class DiskFullError(RunEndedError):
    """There is no room for what must be written (EX_CANTCREAT)."""

    exit_code = 73


class DivergedError(RunEndedError):
    """Processes that should hold the same weights do not (EX_SOFTWARE)."""

    exit_code = 70
