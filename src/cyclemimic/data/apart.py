"""Reading in a process of its own: where a library below us crashes or hangs, one error is lost and never the run.

Engineering. A request and the head of its answer are a line of JSON each, and arrays follow as raw bytes. There is no
pickle: a damaged file may have made anything of the other process, and what it says is checked like any other input.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

import cyclemimic
from cyclemimic.errors import InputError

START_S = 60.0  # how long a child may take to start
_HEAD_BYTES = 256 << 20  # of one answer's facts
_PIPE_BYTES = 1 << 20
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ; `fcntl` names it on Linux alone
_DAMAGED = "The file is probably damaged: download it again, or go on without it."


class LostReaderError(InputError):
    """The process that was reading a file died, or did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was read: facts that JSON can hold, and arrays of numbers."""

    facts: Mapping[str, Any]
    arrays: Sequence[NDArray[Any]] = ()


@dataclass(frozen=True, kw_only=True)
class _End:
    """How a child ended; `late` is what made it: us, because it did not answer."""

    late: bool
    said: str


class Reader:
    """A child process that runs `python -m MODULE` and answers one request after another; several threads take turns.

    It is started when first asked, and again where it was lost. One that has read other files before gets a second,
    fresh try, so that whether a file can be read depends on that file alone.

    Args:
        module: calls `answer_all` when it is run.
        memory_bytes: address space that the child may use; less where the machine has less memory.
    """

    def __init__(self, module: str, *, memory_bytes: int) -> None:
        self._module, self._memory_bytes, self._owner = module, memory_bytes, os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any], *, where: str, patience_s: float) -> Answer:
        """The answer to a request that JSON can hold.

        Args:
            request: what `answer_all` hands on.
            where: the file, as errors name it.
            patience_s: how long the child may take; its start has a time of its own.

        Raises:
            InputError: raised in the child, and raised here again.
            LostReaderError: it died or took longer.
        """
        line = json.dumps({**request, "patience_s": patience_s}).encode() + b"\n"
        with self._lock:
            used = self._used()
            found = self._tried(line, patience_s)
            if used and isinstance(found, _End):
                found = self._tried(line, patience_s)
        if isinstance(found, Answer):
            return found
        expected, got = "a file that can be read", f"its reader died ({found.said})"
        if found.late:
            expected, got = f"an answer within {patience_s:.0f} s", "none"
        raise LostReaderError(where, expected=expected, got=got, remedy=_DAMAGED)

    def close(self) -> None:
        """End the child. A process that was forked from ours has no say in it."""
        if self._process is not None and self._owner == os.getpid():
            self._ended(self._process)

    def _used(self) -> bool:
        """Whether a child is there that has read other files before."""
        if self._process is not None and self._process.poll() is not None:
            self._ended(self._process)  # it was killed between two requests: no file is to blame
        return self._process is not None

    def _tried(self, line: bytes, patience_s: float) -> Answer | _End:
        process = self._process
        if process is None:
            process = self._process = self._start()
            # What starting takes, on a busy machine too, is not the file's time.
            begun = self._within(START_S, process, lambda pipe: Answer(facts={"ready": self._line(pipe)}))
            if isinstance(begun, _End):
                return begun
        assert process.stdin is not None
        with suppress(OSError):  # where it is dead already, there is no answer either
            process.stdin.write(line)
            process.stdin.flush()
        return self._within(patience_s, process, self._received)

    def _start(self) -> subprocess.Popen[bytes]:
        self._said = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115  read when the child has ended
        above = str(Path(cyclemimic.__file__).parents[1])
        paths = [above, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            # -P: a file of the user's that is called json.py is none of ours.
            [sys.executable, "-P", "-m", self._module, str(self._memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        with suppress(ImportError, OSError):  # the size is a wish
            import fcntl

            assert process.stdout is not None
            fcntl.fcntl(process.stdout, _SET_PIPE_SIZE, _PIPE_BYTES)
        return process

    def _within(
        self, seconds: float, process: subprocess.Popen[bytes], receive: Callable[[IO[bytes]], Answer]
    ) -> Answer | _End:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        assert process.stdout is not None
        try:
            return receive(process.stdout)
        except InputError:
            raise
        except (OSError, EOFError, ValueError, KeyError, TypeError, MemoryError):
            return _End(late=late.is_set(), said=self._ended(process))
        finally:
            timer.cancel()

    def _line(self, pipe: IO[bytes]) -> bytes:
        line = pipe.readline(_HEAD_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError("no whole answer")
        return line

    def _received(self, pipe: IO[bytes]) -> Answer:
        head = json.loads(self._line(pipe))
        if "error" in head:
            where, expected, got, remedy = map(str, head["error"])
            raise InputError(where, expected=expected, got=got, remedy=remedy)
        kinds = [(np.dtype(str(kind)), tuple(map(int, shape))) for kind, shape in head["arrays"]]
        sizes = [kind.itemsize * int(np.prod(shape, dtype=object)) for kind, shape in kinds]
        if any(kind.kind not in "uifb" or min(shape, default=0) < 0 for kind, shape in kinds):
            raise ValueError("an answer that makes no sense")
        if sum(sizes) > self._memory_bytes:
            raise ValueError("an answer that is larger than the process that gave it")
        arrays = [np.empty(shape, kind) for kind, shape in kinds]
        for array in arrays:
            if array.size and pipe.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:  # type: ignore[attr-defined]
                raise EOFError("no whole array")
        return Answer(facts=head["facts"], arrays=arrays)

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        """End a child that has nothing more to say, and tell how it ended."""
        assert process.stdin is not None and process.stdout is not None and self._said is not None
        with suppress(OSError):
            process.stdin.close()  # which is what ends it, unless it is dead or stuck
        try:
            code = process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        process.stdout.close()
        self._process = None
        with self._said as said:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-1:]
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ", ".join([how, *(line[:200] for line in last)])


_readers: dict[tuple[str, int], Reader] = {}
_readers_lock = threading.Lock()


def reader(module: str, *, memory_bytes: int) -> Reader:
    """The one reader of this process that runs a module; a forked process gets its own."""
    with _readers_lock:
        key = (module, os.getpid())
        if key not in _readers:
            _readers[key] = Reader(module, memory_bytes=memory_bytes)
        return _readers[key]


def _new_lock() -> None:
    global _readers_lock
    _readers_lock = threading.Lock()  # another thread may have held it when this process was forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def answer_all(answer: Callable[[Mapping[str, Any]], Answer]) -> None:
    """In the child: answer requests until there are no more; whatever else is printed goes to standard error."""
    _limit(int(sys.argv[1]))
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(b"ready\n")
    answers.flush()
    for line in iter(requests.readline, b""):
        request = json.loads(line)
        _alarm(request["patience_s"] + 5)  # of use where the parent was killed meanwhile
        arrays: list[NDArray[Any]] = []
        try:
            found = answer(request)
            arrays = [np.ascontiguousarray(array) for array in found.arrays]
            head = {"facts": found.facts, "arrays": [[a.dtype.str, a.shape] for a in arrays]}
        except InputError as error:
            head = {"error": [error.where, error.expected, error.got, error.remedy]}
        answers.write(json.dumps(head).encode() + b"\n")
        for array in arrays:
            answers.write(array.reshape(-1).view(np.uint8).data)
        answers.flush()
        _alarm(0)


def _limit(memory_bytes: int) -> None:
    """No more memory than that or than there is, and no core dumps; where the system has such limits."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [memory_bytes, there_is, *([] if hard == resource.RLIM_INFINITY else [hard])]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _alarm(seconds: float) -> None:
    """End this process after so many seconds, even within a library; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
