"""Flower's own commands and processes, as every part of this project that starts some starts them.

Processes are in the foreground, ended with this one, and reachable before they count as there.
"""

import base64
import contextlib
import ctypes
import json
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
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from recsys_fed.errors import ConfigurationError, EngineError

# Flower asks for work this often (seconds); its own default is 1. Asking takes 10 ms of a processor.
_TASK_POLL = "0.25"
_HERE = ("127.0.0.1", "localhost", "::1")


def environment(home: Path, *, first_on_path: Path | None = None) -> Mapping[str, str]:
    """The environment of a Flower process: no telemetry, no look for updates and no installation at run time.

    A proxy that the operator has set (HTTPS_PROXY) is for other machines, never for what is asked on this one.
    """
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    if first_on_path is not None:
        folders.insert(0, str(first_on_path))
    return {
        **os.environ,
        "PATH": os.pathsep.join(folders),
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), *_HERE))),
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
        raise EngineError(f'The command {name} is not installed: pip install "recsys-fed[train]".')
    return found


def gate_command(command: Sequence[str]) -> list[str]:
    """flower-superlink or flower-supernode behind the gate that keeps other accounts out, `deployment.gated`."""
    which = Path(command[0]).name.removeprefix("flower-")
    return [sys.executable, "-m", "recsys_fed.deployment.gated", which, *command[1:]]


Process = subprocess.Popen[bytes]
_POLL, _GRACE = 0.1, 10.0
_PR_SET_PDEATHSIG = 1
_MOST_ANSWER = 1 << 16
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
def end_on_signals() -> Iterator[None]:
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


def scale_timeout(seconds: float) -> float:
    """How long something may take that takes `seconds` at most on an idle machine: longer where processes queue."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(missing: Callable[[], str], process: Process, *, seconds: float, what: str) -> None:
    """Wait for a process to be ready.

    Args:
        missing: why it is not ready yet; "" once it is.
        process: that is to be ready.
        seconds: as of `scale_timeout`.
        what: for the error's text.

    Raises:
        EngineError: it ended, or it is not ready in time.
    """
    begun = time.monotonic()
    while True:
        if process.poll() is not None:
            raise EngineError(f"The process ended with code {process.returncode} while waiting for {what}.")
        reason = missing()
        if not reason:
            return
        limit = scale_timeout(seconds)
        if time.monotonic() - begun > limit:
            raise EngineError(f"Expected {what} within {limit:.0f} s: {reason}. See its output.")
        time.sleep(_POLL)


def ask_flower(command: Sequence[str], home: Path, *, seconds: float = 120.0) -> dict[str, Any]:
    """Run one of Flower's commands that answers in JSON.

    Raises:
        EngineError: it does not answer, not in time (see `scale_timeout`), or it says that it did not do it.
    """
    name, limit = " ".join(["flwr", *command[1:3]]), scale_timeout(seconds)
    try:
        done = subprocess.run(
            command, env=dict(environment(home)), capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"`{name}` did not answer within {limit:.0f} s. Is the machine overloaded?") from error
    try:
        record: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError as error:
        said = (done.stderr or done.stdout).strip()[-400:]
        raise EngineError(f"`{name}` gave no answer: {said}") from error
    if not record.get("success", True):
        raise EngineError(f"`{name}` failed: {record.get('error-message', record)}")
    return record


def healthy(host: str, port: int, *, authority: Path | None, timeout: float = 3.0) -> str:
    """ "" if a SuperLink answers there under a certificate of this authority, else the reason why not.

    `authority` None asks without TLS.
    """
    answer = ask(host, port, "/health", authority=authority, timeout=timeout)
    return answer.reason or ("" if answer.status == HTTPStatus.OK else f"it answers with status {answer.status}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server says to a GET; `reason` says why there is no answer, `date` is the server's clock."""

    status: int = 0
    text: str = ""
    content: bytes = b""
    date: str = ""
    reason: str = ""


def ask(
    host: str,
    port: int,
    path: str,
    *,
    authority: Path | None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,
    most_bytes: int = _MOST_ANSWER,
) -> Answer:
    """Ask a server whose certificate this authority has signed; `authority` None asks without TLS.

    What is longer than `most_bytes` is cut there. TLS goes through the operator's proxy (HTTPS_PROXY, NO_PROXY)
    unopened, as a SuperNode's does.
    """
    connection: HTTPConnection
    try:
        if authority is None:
            connection = HTTPConnection(host, port, timeout=timeout)
        else:
            context = ssl.create_default_context(cafile=str(authority))
            proxy = _proxy_to(host)
            there = (host, port) if proxy is None else (str(proxy.hostname), proxy.port)
            connection = HTTPSConnection(*there, timeout=timeout, context=context)
            if proxy is not None:
                connection.set_tunnel(host, port, headers=_proxy_headers(proxy))
        with contextlib.closing(connection):
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read(most_bytes)
            text = content[:_MOST_ANSWER].decode("utf-8", "replace")
            return Answer(status=answer.status, text=text, content=content, date=answer.getheader("date", ""))
    except ssl.SSLCertVerificationError as error:
        return Answer(reason=f"its certificate does not hold: {error.verify_message}")
    except (OSError, HTTPException) as error:
        return Answer(reason=f"{type(error).__name__}: {error}")


def _proxy_to(host: str) -> SplitResult | None:
    """The proxy that leads to a host; None where it is asked directly."""
    address = getproxies().get("https", "")
    if not address or host in _HERE or proxy_bypass(host):
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname or not proxy.port:
        raise ConfigurationError("Expected HTTPS_PROXY to be http://HOST:PORT, got something else.")
    return proxy


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(words).decode()}"}


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
