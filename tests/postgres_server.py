"""A real PostgreSQL server of the tests: on loopback, in a temporary folder, not as root, gone with the tests."""

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import lru_cache
from itertools import count
from pathlib import Path

import pytest

NEEDED = "needs PostgreSQL's server programs (Debian package postgresql) and psycopg (the extra postgresql)"
_numbers = count()


def new_database() -> str:
    """The URL of an empty database; skips with a clear word where there is no server to start."""
    psycopg = pytest.importorskip("psycopg", reason=NEEDED)
    port = _server()
    name = f"ledger_{next(_numbers)}"
    with psycopg.connect(f"postgresql://ledger@127.0.0.1:{port}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://ledger:not-asked-for@127.0.0.1:{port}/{name}"


@lru_cache(maxsize=1)
def _server() -> int:
    """Start the server once, and return its port."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip(NEEDED)
    folder = Path(tempfile.mkdtemp(prefix="recsys-fed-postgresql-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    as_user, data = _unprivileged(folder), folder / "data"
    made = [*as_user, str(programs[-1]), "-D", str(data), "-U", "ledger", "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(made, check=True, capture_output=True, timeout=120, cwd=folder)
    port = _free_port()
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    # A server that is set up carelessly: the ledger asks for what it needs.
    options |= {"synchronous_commit": "off", "default_transaction_isolation": "repeatable read"}
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    command = [*as_user, str(programs[-1].with_name("postgres")), "-D", str(data), *settings]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    atexit.register(_stop, server)
    _wait_for(programs[-1].with_name("pg_isready"), port, server, folder / "log")
    return port


def _unprivileged(folder: Path) -> list[str]:
    """What runs a program as somebody who is not root; the folder is theirs. It ends when the tests end."""
    if os.geteuid() != 0:
        return []
    names = {user.pw_name for user in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return [
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig", "INT",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(pg_isready: Path, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run([str(pg_isready), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"PostgreSQL did not start: {log.read_text()}")
        time.sleep(0.1)


def _stop(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.send_signal(signal.SIGINT)
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(timeout=20)
