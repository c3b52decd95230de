"""Connections that cannot be held without asking for anything: limits at the protocol, before any token is looked at.

uvicorn limits how long a connection may be idle between two requests. A request that is never finished, or an answer
that is never read, it waits for without end. So each connection is in one of three states, each with a deadline that
no further byte moves:

    reading      a request is awaited or half received   request_seconds
    answering    the service works, or the client reads  ANSWER_SECONDS
    idle         between two requests                    uvicorn's own timeout_keep_alive

Where there are as many as there may be, a new connection takes the place of the one that has been reading for
longest, else of the one that has been idle for longest: whoever sends a whole request at once gets in, however many
others hold on to half of one.
"""

import asyncio
import resource
import time
from collections import OrderedDict
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

ANSWER_SECONDS = 60.0
_HANDSHAKE_SECONDS = 5.0
_SWEEP_SECONDS = 0.5
# Files that the service has open besides connections.
_OTHER_FILES = 128


class ConnectionLimits:
    """All connections of one service. Owned by its event loop."""

    def __init__(self, *, most: int, request_seconds: float) -> None:
        self.most, self._request_seconds = most, request_seconds
        # By state, those that have been in it for longest first; the value is the deadline.
        self.reading: OrderedDict[Any, float] = OrderedDict()
        self.answering: OrderedDict[Any, float] = OrderedDict()
        self.idle: OrderedDict[Any, float] = OrderedDict()
        self.closed = 0
        self._sweeping = False

    def __len__(self) -> int:
        return len(self.reading) + len(self.answering) + len(self.idle)

    def admit(self, connection: Any) -> None:
        """Take in a new connection, in the place of another one if need be."""
        if len(self) >= self.most:
            self._close(next(iter(self.reading or self.idle), connection))
        if not connection.transport.is_closing():
            self.move(connection, self.reading)
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def move(self, connection: Any, state: "OrderedDict[Any, float]") -> None:
        """The connection is in another state from now on."""
        self.drop(connection)
        seconds = self._request_seconds if state is self.reading else ANSWER_SECONDS
        state[connection] = time.monotonic() + seconds

    def drop(self, connection: Any) -> None:
        """The connection is no more."""
        for state in (self.reading, self.answering, self.idle):
            state.pop(connection, None)

    def _sweep(self) -> None:
        now = time.monotonic()
        for state in (self.reading, self.answering):
            # Deadlines ascend: all of a state have the same time.
            while state and next(iter(state.values())) <= now:
                self._close(next(iter(state)))
        self._sweeping = len(self) > 0
        if self._sweeping:
            asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _close(self, connection: Any) -> None:
        self.drop(connection)
        self.closed += 1
        connection.transport.abort()


def limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """uvicorn's protocol for HTTP, whose connections keep to the limits."""

    class LimitedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        """One connection."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            limits.admit(self)

        def connection_lost(self, exc: Exception | None) -> None:
            limits.drop(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self in limits.idle:
                limits.move(self, limits.reading)
            super().data_received(data)
            if self in limits.reading and self._is_answering():
                limits.move(self, limits.answering)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self in limits.answering or self in limits.reading:
                limits.move(self, limits.answering if self._is_answering() else limits.idle)

        def _is_answering(self) -> bool:
            """Whether there is a whole request without a whole answer."""
            cycle = self.cycle
            return cycle is not None and not cycle.response_complete and not cycle.more_body

    return LimitedProtocol


def most_connections(wanted: int) -> int:
    """How many connections there may be; the limit of open files is raised for them as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHER_FILES))


def event_loop(config: uvicorn.Config) -> asyncio.AbstractEventLoop:
    """uvicorn's event loop, in which a TLS handshake has to be over within seconds."""
    factory: Any = config.get_loop_factory() or asyncio.new_event_loop
    loop = factory()

    class BoundedLoop(type(loop)):  # type: ignore[misc]
        """Of the same kind."""

        async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
            if options.get("ssl") is not None:
                options.setdefault("ssl_handshake_timeout", _HANDSHAKE_SECONDS)
            server: asyncio.Server = await super().create_server(*args, **options)
            return server

    loop.close()
    return BoundedLoop()
