"""The process that answers, and the one that watches over it.

The parent imports everything, opens the socket and forks. If the child dies, the next one is there in a fraction of a
second, and connections wait in the socket meanwhile. If the parent dies, the child ends too, so that the port is
free.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import uvicorn

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving._connections import ConnectionLimits, event_loop, limited_protocol, most_connections
from recsys_fed.serving._service import RecommendationService
from recsys_fed.serving.api._application import application
from recsys_fed.serving.paths import ServicePaths, TokenFile
from recsys_fed.serving.reload import ModelReloader, ModelSource
from recsys_fed.serving.settings import ApiSettings, ServingSettings
from recsys_fed.serving.store import open_store
from recsys_fed.serving.versions import Versions

_BACKLOG = 2_048
# How long a statement waits for a lock of the database: less than a request may wait for the store.
LOCK_SECONDS = 1.0
_SWITCH_SECONDS = 0.0005
# A child that lives shorter failed to start; the next one waits, longer each time.
_SHORT_LIFE, _LONGEST_WAIT = 5.0, 10.0
_FAILED_STARTS = 5


def serve(
    settings: ServingSettings,
    place: ServicePaths,
    *,
    source: ModelSource | None = None,
    budget: Callable[[], Mapping[str, Any]] = dict,
    ready: Callable[[str], None] = lambda _: None,
) -> int:
    """Serve until told to stop; returns the exit code. `ready` is called with the address once the socket is open.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    listening = _socket(settings.api)
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.api.tls_certificate else "http"
    ready(f"{scheme}://{host}:{port}")
    return _watch_over(lambda: run(settings, place, listening, source=source, budget=budget))


def run(
    settings: ServingSettings,
    place: ServicePaths,
    listening: socket.socket,
    *,
    source: ModelSource | None = None,
    budget: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Answer on an open socket, in this process."""
    key = place.key()
    service = RecommendationService(
        settings,
        open_store(place, lock_seconds=LOCK_SECONDS),
        Versions(place.folder, search=settings.api.search),
        key=key,
        budget=budget,
    )
    gate = application(service, TokenFile(place.tokens), ModelReloader(service, place.folder, source))
    limits = ConnectionLimits(
        most=most_connections(settings.api.max_connections), request_seconds=settings.api.request_seconds
    )
    config = uvicorn.Config(
        gate,
        http=limited_protocol(limits),
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        # Nothing here looks at where a request came from.
        proxy_headers=False,
        ssl_certfile=settings.api.tls_certificate or None,
        ssl_keyfile=settings.api.tls_key or None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    # What lives as long as the process need not be looked at again by the garbage collector.
    gc.collect()
    gc.freeze()
    # A thread that works for a batch or reads the log gives way to the event loop after this time, not after 5 ms.
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=lambda: event_loop(config)) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listening]))


def _socket(settings: ApiSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another port."
        ) from error
    return listening


def _watch_over(child: Callable[[], None]) -> int:
    """Run `child` in a process of its own, again whenever it dies, until this process is told to stop."""
    stopping, running = False, 0

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if running:
            os.kill(running, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    failures = 0
    while not stopping:
        started = time.monotonic()
        running = _fork(child)
        _, status = os.waitpid(running, 0)
        running = 0
        if stopping or os.waitstatus_to_exitcode(status) == 0:
            return 0
        failures = failures + 1 if time.monotonic() - started < _SHORT_LIFE else 0
        if failures >= _FAILED_STARTS and os.waitstatus_to_exitcode(status) > 0:
            return 1
        if failures > 1:
            time.sleep(min(0.2 * 2 ** (failures - 2), _LONGEST_WAIT))
    return 0


def _fork(child: Callable[[], None]) -> int:
    """Fork; the child ends when its parent does, which it sees by the end of a pipe."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(reading)
        # Left open until this process ends, or the next child's pipe takes its place.
        _keep(writing)
        return process
    os.close(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)

    def end_with_parent() -> None:
        os.read(reading, 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        child()
    except BaseException as error:  # noqa: BLE001  (a forked child must never return into its parent's code)
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


_held: list[int] = []


def _keep(descriptor: int) -> None:
    for old in _held:
        os.close(old)
    _held[:] = [descriptor]
