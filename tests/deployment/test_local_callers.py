"""Which account is at the other end of a connection: asked of the kernel about real sockets."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest
from other_account import NOBODY, needs_other_account

from recsys_fed.deployment._local_callers import _account_of, is_own_account

_CONNECT = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); s.send(b'x'); input()"


def connected(host, *, account=None, family=socket.AF_INET):
    """A server's side of a connection from a child process, and the child."""
    server = socket.socket(family)
    server.bind((host, 0))
    server.listen()
    become = [] if account is None else ["setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups"]
    target = "::1" if host == "::1" else "127.0.0.1"
    child = subprocess.Popen(
        [*become, os.path.realpath(sys.executable), "-I", "-c", _CONNECT, target, str(server.getsockname()[1])],
        stdin=subprocess.PIPE,
        cwd="/",
    )
    server.settimeout(60)
    channel, caller = server.accept()
    assert channel.recv(1) == b"x"
    return server, channel, caller[:2], channel.getsockname()[:2], child


@contextlib.contextmanager
def connection(*arguments, **how):
    server, channel, caller, here, child = connected(*arguments, **how)
    try:
        yield channel, caller, here, child
    finally:
        child.kill()
        child.communicate()
        channel.close()
        server.close()


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("::", socket.AF_INET6)]
)
def test_a_process_of_this_account_is_known(host, family):
    with connection(host, family=family) as (_, caller, here, _child):
        assert _account_of(caller, here) == os.geteuid()
        assert is_own_account(caller, here)


@needs_other_account
def test_a_process_of_another_account_is_told_apart():
    with connection("127.0.0.1", account=NOBODY) as (_, caller, here, _child):
        assert _account_of(caller, here) == NOBODY
        assert not is_own_account(caller, here)


@pytest.mark.parametrize("account", [None, pytest.param(NOBODY, marks=needs_other_account)])
def test_a_socket_that_was_closed_belongs_to_nobody_though_the_kernel_shows_it_as_roots(account):
    with connection("127.0.0.1", account=account) as (channel, caller, here, child):
        child.kill()
        child.communicate()
        deadline = time.monotonic() + 60
        while _account_of(caller, here) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _account_of(caller, here) is None
        assert not is_own_account(caller, here)
        channel.setblocking(False)


def test_whoever_is_not_in_the_kernels_tables_is_nobody():
    assert _account_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert not is_own_account(("192.0.2.7", 1), ("127.0.0.1", 2))
    assert not is_own_account(("a name", 1), ("127.0.0.1", 2))
