"""Flower's own commands and processes, as every part of this project that starts some starts them.

Processes are in the foreground, ended with this one, and reachable before they count as there.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO

from recsys_fed.errors import EngineError

# Flower asks for work this often (seconds); its own default is 1.
_TASK_POLL = "0.1"


def environment(home: Path, *, first_on_path: Path | None = None) -> Mapping[str, str]:
    """The environment of a Flower process: no telemetry, no look for updates and no installation at run time."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    if first_on_path is not None:
        folders.insert(0, str(first_on_path))
    return {
        **os.environ,
        "PATH": os.pathsep.join(folders),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", _TASK_POLL),
    }


def tool(name: str) -> str:
    """The command beside this interpreter, else on the PATH; raises EngineError."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise EngineError(f"Expected the command {name}, it is not installed: pip install flwr.")
    return found


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
