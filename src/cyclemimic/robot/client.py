"""Asks a policy server. Imports no torch: a robot's computer needs numpy, msgpack and websockets. Engineering."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from cyclemimic.errors import InputError
from cyclemimic.serve.wire import MAX_MESSAGE_BYTES, Answer, Hello, Message, Refusal, Request, pack, unpack
from cyclemimic.types import ActionChunk, ActionSpace, CameraSpec, Observation


class LateAnswerError(RuntimeError):
    """The answer did not come in time. It will be dropped when it comes."""


class BadAnswerError(RuntimeError):
    """The server refused, or its answer is of no use: NaN, another width, no message at all."""


class ServerLostError(RuntimeError):
    """The connection ended."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, and how long it took: from asking to having it, and of that the policy's own time."""

    chunk: ActionChunk
    latency_ms: float
    policy_ms: float


class PolicyClient:
    """One connection to one policy server; at most one question is open at a time.

    Args:
        server: such as ws://127.0.0.1:8000.
        connect_timeout_s: for the connection and the server's hello.

    Raises:
        InputError: no policy server answers there.
    """

    def __init__(self, server: str, *, connect_timeout_s: float = 10.0) -> None:
        self.server, self.connect_timeout_s = server, connect_timeout_s
        self._number, self._open, self._asked_s = 0, False, 0.0
        self._arrived: tuple[Answer | Refusal | Exception, float] | None = None  # and its latency [ms]
        self._connection, self.hello = self._connect()

    def check(self, space: ActionSpace, cameras: tuple[CameraSpec, ...]) -> None:
        """Compare the policy's body with the robot's.

        Raises:
            InputError: other axes, another order, unit or rate, or a camera is missing; shows both.
        """
        ours, theirs = (tuple(_told(axis) for axis in s.axes) for s in (space, self.hello.action_space))
        if ours != theirs:
            raise InputError(
                f"action space of the policy at {self.server}",
                expected=f"the robot's: {_listed(ours)}",
                got=_listed(theirs),
                remedy="Serve a policy that was fine-tuned on this body.",
            )
        if space.rate_hz != self.hello.action_space.rate_hz:
            raise InputError(
                f"rate of the policy at {self.server}",
                expected=f"the robot's {space.rate_hz:g} Hz",
                got=f"{self.hello.action_space.rate_hz:g} Hz",
                remedy="At another rate equal actions are other motions; serve a policy of this rate.",
            )
        if missing := [c for c in self.hello.cameras if c not in cameras]:
            raise InputError(
                f"cameras of the policy at {self.server}",
                expected=f"those of the robot: {_sizes(cameras)}",
                got=_sizes(tuple(missing)),
                remedy="Name, crop and scale the robot's pictures as those of the demonstrations.",
            )

    def act(self, observation: Observation, timeout_s: float) -> Reply:
        """Ask, and wait for the answer.

        Raises:
            LateAnswerError, BadAnswerError, ServerLostError: see there.
            InputError: the observation cannot be sent; names the field.
        """
        self.drain(timeout_s)
        self.ask(observation)
        return self.answer(timeout_s)

    def drain(self, timeout_s: float) -> None:
        """Wait for the answer to a question that was given up, so that questions never pile up at the server."""
        if self._open:
            self.listen(timeout_s)
        if self._open:
            raise LateAnswerError(f"still no answer {self.waited_s() * 1e3:.0f} ms after the question")
        self._arrived = None

    def ask(self, observation: Observation) -> None:
        """Send a question. No other may be open."""
        assert not self._open, "one question at a time: drain first"
        raw = pack(Request(number=self._number + 1, observation=observation))
        self._number, self._asked_s, self._arrived = self._number + 1, time.monotonic(), None
        try:
            self._connection.send(raw)
        except (ConnectionClosed, OSError) as error:
            raise self._lost(error) from error
        self._open = True

    def listen(self, timeout_s: float) -> bool:
        """Wait for the open question's answer, and keep it for `answer`; whether it is here."""
        ends_s = time.monotonic() + timeout_s
        while self._open:
            try:
                raw = self._connection.recv(timeout=max(0.0, ends_s - time.monotonic()))
                found: Answer | Refusal | Exception | None = self._mine(unpack(raw))
            except TimeoutError:
                return False
            except InputError as error:
                found = BadAnswerError(str(error))
            except (ConnectionClosed, OSError) as error:
                found = self._lost(error)
            if found is not None:
                self._open, self._arrived = False, (found, self.waited_s() * 1e3)
        return True

    def answer(self, timeout_s: float) -> Reply:
        """The answer to the last question; raises as `act` does."""
        self.listen(timeout_s)
        if self._arrived is None:
            raise LateAnswerError(f"no answer {self.waited_s() * 1e3:.0f} ms after the question")
        (found, latency_ms), self._arrived = self._arrived, None
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Refusal):
            raise BadAnswerError(f"the server refuses ({found.kind}): {found.text}")
        try:
            chunk = found.chunk(self.hello.action_space)
        except InputError as error:
            raise BadAnswerError(str(error)) from error
        return Reply(chunk=chunk, latency_ms=latency_ms, policy_ms=found.policy_ms)

    def waited_s(self) -> float:
        """How long ago the last question was asked."""
        return time.monotonic() - self._asked_s

    def reconnect(self) -> None:
        """Connect again. Raises InputError if nobody answers, or if it is another policy now."""
        self.close()
        connection, hello = self._connect()
        if hello != self.hello:
            connection.close()
            raise InputError(
                self.server,
                expected=f"the policy as before, {self.hello.policy} ({self.hello.identity[:12]})",
                got=f"{hello.policy} ({hello.identity[:12]})",
                remedy="Start the run again with the new one.",
            )
        self._connection, self._open, self._arrived = connection, False, None

    def close(self) -> None:
        """End the connection; a second time does nothing."""
        self._connection.close()

    def _mine(self, found: Message) -> Answer | Refusal | None:
        """What answers the open question; None for what answers an older one."""
        if isinstance(found, Answer | Refusal) and found.number in (self._number, None):
            return found
        return None

    def _lost(self, error: Exception) -> ServerLostError:
        self._open = False
        return ServerLostError(f"the connection to {self.server} ended: {error}")

    def _connect(self) -> tuple[ClientConnection, Hello]:
        def refused(expected: str, got: object, remedy: str) -> InputError:
            return InputError(f"server {self.server}", expected=expected, got=str(got), remedy=remedy)

        wanted = "a policy server"
        remedy = "Start `cyclemimic serve RUN` there, and check the address, the port and the firewall."
        try:
            connection = connect(
                self.server,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=self.connect_timeout_s,
                proxy=None,  # a robot's server is near; a proxy of the environment is for the web
            )
        except InvalidURI as error:
            raise refused("an address such as ws://127.0.0.1:8000", error, "Write it like that.") from error
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise refused(wanted, f"{type(error).__name__}: {error}", remedy) from error
        try:
            hello = unpack(connection.recv(timeout=self.connect_timeout_s))
        except (ConnectionClosed, TimeoutError, OSError, InputError) as error:
            connection.close()
            got = "silence" if isinstance(error, TimeoutError) else str(error)
            raise refused(f"{wanted}'s hello", got, "Something else listens there, or another version.") from error
        if not isinstance(hello, Hello):
            connection.close()
            raise refused(f"{wanted}'s hello", type(hello).__name__, "Something else listens there.")
        return connection, hello


def _told(axis: Any) -> tuple[tuple[str, Any], ...]:
    """What two bodies must agree on: all but the limits, for the robot's own are kept anyway."""
    return tuple((name, value) for name, value in vars(axis).items() if name not in ("low", "high"))


def _listed(axes: tuple[tuple[tuple[str, Any], ...], ...]) -> str:
    return ", ".join(" ".join(str(value) for _, value in axis) for axis in axes)


def _sizes(cameras: tuple[CameraSpec, ...]) -> str:
    return ", ".join(f"{c.name!r} {c.height_px} x {c.width_px} px" for c in cameras) or "none"
