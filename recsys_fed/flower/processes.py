"""Processes that this project starts: in the foreground, ended with it, and reachable before they count as there."""

import contextlib
import ctypes
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO

from recsys_fed.errors import EngineError

Process = subprocess.Popen[bytes]
_POLL, _GRACE = 0.1, 10.0
_PR_SET_PDEATHSIG = 1
# Loaded before any fork: a child of a process with threads must not have to load anything.
_LIBC = ctypes.CDLL(None)


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Process]:
    """A process while the block runs: asked to end afterwards, and killed if it does not."""
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdout=output,
        stderr=output,
        pass_fds=tuple(pass_fds),
        preexec_fn=_end_with_parent,  # noqa: PLW1509  (it calls one function of the C library)
    )
    try:
        yield process
    finally:
        end(process)


def _end_with_parent() -> None:
    """Linux sends the child a SIGTERM when this process is gone, whatever ended it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end(process: Process) -> None:
    """Ask a process to end; kill it if it does not within a while."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what it has started is ended as well."""
    before = signal.getsignal(signal.SIGTERM)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_until(there: Callable[[], bool], process: Process, *, seconds: float, what: str) -> None:
    """Wait for a process to be ready.

    Raises:
        EngineError: it ended, or it is not ready in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineError(f"Expected {what}, it ended with code {process.returncode}. See its output.")
        if there():
            return
        time.sleep(_POLL)
    raise EngineError(f"Expected {what} within {seconds:.0f} s, it is not there.")


def healthy(host: str, port: int, *, authority: Path | None, timeout: float = 3.0) -> str:
    """ "" if a SuperLink answers there under a certificate of this authority, else the reason why not.

    `authority` None asks without TLS.
    """
    connection: HTTPConnection
    try:
        if authority is None:
            connection = HTTPConnection(host, port, timeout=timeout)
        else:
            context = ssl.create_default_context(cafile=str(authority))
            connection = HTTPSConnection(host, port, timeout=timeout, context=context)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            status = connection.getresponse().status
        return "" if status == HTTPStatus.OK else f"it answers with status {status}"
    except (OSError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
