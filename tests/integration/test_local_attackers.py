"""Other accounts of the server's and of a silo's machine, and callers without a key, against real processes."""

import contextlib
import os
import re
import socket
import ssl
import time
from pathlib import Path

import pytest
from deployment_kit import deployed
from other_account import NOBODY, needs_other_account, posted
from real_federation import RealFederation, log_lines, wait_for
from refused_peers import activated, refused_meanwhile

from recsys_fed.deployment.federation import AUTHORITY
from recsys_fed.flower import free_port

CONTROL = ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/control/register-node")
RUNTIME = ("/v1/runtime/acquire-task", "/v1/runtime/pull-task-input", "/v1/runtime/push-messages")
CALLERS, LARGE = 500, 200 << 20


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    there = deployed(folder / "federation", port=free_port())
    running = RealFederation(there, folder / "logs")
    try:
        running.start_server()
        yield running
    finally:
        running.stop()


def port_of(federation):
    return int(federation.there.federation.settings().address.rsplit(":", 1)[1])


def authority_of(federation):
    return (federation.there.federation.public / AUTHORITY).read_text()


@needs_other_account
@pytest.mark.parametrize("path", CONTROL + RUNTIME)
def test_another_account_of_the_servers_machine_is_refused(federation, path):
    port, authority = port_of(federation), authority_of(federation)
    assert posted(port, path, account=NOBODY, authority=authority) == 403
    # The account that serves gets to Flower, which has its own opinion of an empty message.
    assert posted(port, path, authority=authority) != 403


@needs_other_account
def test_another_account_of_a_silos_machine_gets_none_of_its_messages(federation):
    federation.start_silo(0)
    port = wait_for_runtime(federation)
    for path in RUNTIME:
        assert posted(port, path, account=NOBODY) == 403
    assert posted(port, "/v1/runtime/acquire-task") != 403
    federation.kill("silo-0")


def wait_for_runtime(federation):
    """The port of a silo's SuperNode, once it listens."""
    found = []

    def missing():
        for command in commands():
            port = re.search(r"recsys_fed.deployment.gated supernode .*--port (\d+)", command)
            if port and str(federation.there.silos[0]) in command:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", int(port[1])), timeout=5).close()
                    found.append(int(port[1]))
        return bool(found)

    wait_for(missing, federation.process("silo-0"))
    return found[0]


def commands():
    """What `ps` shows to everybody."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


def test_only_admitted_keys_over_tls_of_the_federations_authority_get_in(federation, tmp_path):
    refused_meanwhile(federation, tmp_path)
    # The same question under an admitted key is answered.
    assert activated(federation.there.silos[1], federation.there.federation.settings().address) == 200


def test_callers_without_a_key_cost_little_memory_and_few_lines(federation):
    """500 connections at once, each with the headers of a large message; two send all of it."""
    port, authority = port_of(federation), authority_of(federation)
    server = superlink_pid(federation)
    lines = len(log_lines(federation.there.federation.log))
    before, context = resident(server), ssl.create_default_context(cadata=authority)
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(CALLERS):
            plain = socket.create_connection(("127.0.0.1", port), timeout=60)
            channel = stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            opened.append(channel)
        for channel in opened[2:]:
            channel.sendall(f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}".encode())
        for channel in opened[:2]:
            channel.sendall(
                f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n\r\n".encode()
            )
            with contextlib.suppress(OSError):
                for _ in range(LARGE >> 20):
                    channel.sendall(b"x" * (1 << 20))
        time.sleep(1)
        grown = resident(server) - before
    assert grown < 100_000, f"{grown} kB"
    assert len(log_lines(federation.there.federation.log)) <= lines + 2


def superlink_pid(federation):
    """The process behind `federation serve`."""
    (pid,) = [
        line["pid"] for line in log_lines(federation.there.federation.log) if line["event"] == "federation serves"
    ]
    return pid


def resident(pid):
    """Kilobytes of memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def test_a_second_server_says_that_there_is_one(federation):
    done = federation.command("federation", "serve", federation.there.federation.path)
    assert done.returncode == 2
    assert "is served already, by process" in done.stderr
    assert str(os.getpid()) not in done.stderr
