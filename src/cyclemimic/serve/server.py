"""A policy behind a websocket: says hello, then answers observations with actions. Engineering.

Clients come one after another or at once; the policy is asked by one thread, one observation at a time. What a client
does wrong is answered with a `Refusal` and costs nobody else anything. GET /healthz answers OK.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from cyclemimic.errors import InputError
from cyclemimic.serve.wire import (
    MAX_CHARACTERS,
    MAX_MESSAGE_BYTES,
    Answer,
    Hello,
    Refusal,
    Request,
    number_of,
    pack,
    unpack,
)
from cyclemimic.types import Policy

LOG = logging.getLogger(__name__)


class PolicyServer:
    """Serves one policy.

    Args:
        policy: what acts; called by one thread.
        hello: what every client is told first.
        host: where to listen; the default is this machine alone, for there is no password.
        port: 0 takes any free one.
    """

    def __init__(self, policy: Policy, hello: Hello, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.policy, self.hello, self.host, self.port = policy, hello, host, port
        self.address = ""
        self._hello = pack(hello)
        self._asked = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop

    def run(self, started: Callable[[str], None]) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; `started` is told the address.

        Raises:
            InputError: nothing can listen there.
        """
        asyncio.run(self._run(started))

    def stop(self) -> None:
        """Close every connection and let `run` return; any thread may call it."""
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _run(self, started: Callable[[str], None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await serve(
                self._client,
                self.host,
                self.port,
                process_request=_health,
                # A page in a browser may open a websocket to this machine; it says so by an Origin.
                origins=[None],
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
            )
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--host {self.host} --port {self.port}",
                expected="an address of this machine with a free port",
                got=str(error),
                remedy="Use --port 0 for any free port.",
            ) from error
        async with server:
            self.address = _address(server)
            with self._signals():
                started(self.address)
                await self._stop.wait()
        self._asked.shutdown()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal stops in peace; the next has its usual effect. Signals belong to the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(number)
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop)
        yield

    async def _client(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await connection.send(self._hello)
            async for raw in connection:
                await connection.send(await self._answer(raw))

    async def _answer(self, raw: str | bytes) -> bytes:
        try:
            request = unpack(raw)
            if not isinstance(request, Request):
                kind = type(request).__name__.lower()
                raise InputError("message.type", expected="request", got=kind, remedy="A server answers requests.")
        except InputError as error:
            number = number_of(raw) if isinstance(raw, bytes) else None
            return _refused(number, "message", str(error))
        return await self._loop.run_in_executor(self._asked, self._act, request)

    def _act(self, request: Request) -> bytes:
        """Ask the policy; whatever it raises is the client's to know and the log's to keep."""
        began_s = time.perf_counter()
        try:
            chunk = self.policy.act(request.observation)
            policy_ms = (time.perf_counter() - began_s) * 1e3
            if chunk.space != self.hello.action_space:
                return _refused(request.number, "policy", f"it answered in {chunk.space.name!r}, another action space")
            actions = np.asarray(chunk.actions, np.float32)
            return pack(Answer(number=request.number, actions=actions, policy_ms=policy_ms))
        except InputError as error:
            return _refused(request.number, "observation", str(error))
        except Exception as error:  # the policy is anybody's code: it is told by name, logged whole, and serves on
            LOG.exception("the policy failed")
            return _refused(request.number, "policy", f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def serving(policy: Policy, hello: Hello) -> Iterator[str]:
    """Serve in a thread of this process; gives the address. For tests, and for a robot on the same computer."""
    server, up = PolicyServer(policy, hello), threading.Event()

    def run() -> None:
        try:
            server.run(lambda address: up.set())
        finally:
            up.set()

    thread = threading.Thread(target=run, daemon=True, name="policy server")
    thread.start()
    up.wait()
    assert server.address, "the server did not start; its thread has said why"
    try:
        yield server.address
    finally:
        server.stop()
        thread.join()


def _refused(number: int | None, kind: str, text: str) -> bytes:
    return pack(Refusal(number=number, kind=kind, text=text[:MAX_CHARACTERS]))


def _health(connection: ServerConnection, request: HttpRequest) -> Response | None:
    return connection.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None


def _address(server: Server) -> str:
    host, port = next(iter(server.sockets)).getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
