"""Run a federation's server, and a silo's client, in the foreground until they are told to stop."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path

from recsys_fed.deployment.federation import (
    ADMITTED,
    AUTHORITY,
    LOG,
    MOST_BYTES,
    PROBE,
    FederationFolder,
    FederationSettings,
    flower_config,
    gated,
    printed,
    split_address,
    superlink_command,
    supernode_command,
)
from recsys_fed.deployment.keys import expiry, plain_node_key
from recsys_fed.deployment.roster import synchronise
from recsys_fed.deployment.standing import standing_of
from recsys_fed.deployment.warm_clientapp import SOCKET, write_program
from recsys_fed.errors import ConfigurationError, EngineError
from recsys_fed.files import held
from recsys_fed.flower import Process, ask, environment, free_port, healthy, running, wait_until
from recsys_fed.logs import EventLog
from recsys_fed.silo.on_disk import clear_blocks
from recsys_fed.silo.settings import DataSettings, SiloSettings

_Say = Callable[[str], None]
_START_SECONDS = 300.0
# Seconds until a SuperNode that ended is started again; one that ran for a minute starts afresh.
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY = 1.0, 30.0, 60.0


def prepare_flower(folder: FederationFolder, settings: FederationSettings) -> None:
    """Write Flower's own configuration for the operator's commands."""
    folder.flower_home.mkdir(parents=True, exist_ok=True)
    (folder.flower_home / "config.toml").write_text(flower_config(folder, settings), encoding="utf-8")


@contextmanager
def served_federation(folder: FederationFolder, *, insecure: bool, say: _Say) -> Iterator[Process]:
    """A SuperLink behind its gate, with all admitted silos registered, while the block runs.

    Raises:
        ConfigurationError: federation.toml says insecure and the operator did not, or the other way round; the
            certificate has expired; the folder is served already, or the port is taken.
        EngineError: it does not start, or the gate does not stand in front of it.
    """
    settings = folder.settings()
    if settings.insecure != insecure:
        raise ConfigurationError(
            "Expected --insecure exactly where federation.toml says insecure: "
            "what is not protected has to be said twice."
        )
    prepare_flower(folder, settings)
    plain = superlink_command(folder, settings)
    variables = {MOST_BYTES: str(settings.most_message_megabytes << 20), LOG: str(folder.log)}
    if not insecure:
        variables[ADMITTED] = str(folder.admitted)
    port = split_address(settings.address)[1]
    authority = None if insecure else folder.public / AUTHORITY
    log = EventLog(folder.log)
    with _only_server(folder.flower_home / "serve.lock", what=f"The federation in {folder.path}"):
        if not insecure:
            _check_certificates(folder)
        _check_port(settings.listen, port)
        say(printed(plain, folder.flower_home))
        around = {**environment(folder.flower_home), **variables}
        with running(gated(plain), environment=around) as process:
            _wait_for_gate(process, port, authority=authority)
            if not insecure:
                synchronise(folder, say=lambda flower: say(printed(flower, folder.flower_home)))
            log.write("federation serves", port=port, pid=process.pid)
            say(f"{settings.name} serves on {settings.listen}:{port}; the gate is closed to other accounts")
            yield process


def _wait_for_gate(process: Process, port: int, *, authority: Path | None) -> None:
    """Wait for the SuperLink, and see that the gate refuses what Flower would answer."""
    wait_until(
        lambda: healthy("127.0.0.1", port, authority=authority),
        process,
        seconds=_START_SECONDS,
        what=f"a SuperLink on port {port}",
    )
    status = ask("127.0.0.1", port, PROBE, authority=authority).status
    if status != HTTPStatus.FORBIDDEN:
        raise EngineError(
            f"Expected the gate in front of Flower to refuse {PROBE}, got status {status}: nothing is served. "
            "Install the version of flwr that recsys-fed asks for."
        )


@contextmanager
def _only_server(lock: Path, *, what: str) -> Iterator[None]:
    with held(lock) as other:
        if other:
            raise ConfigurationError(f"{what} is served already, by process {other}. End that one first.")
        yield


def _check_certificates(folder: FederationFolder) -> None:
    """Raise ConfigurationError for an expired certificate, which no silo would accept."""
    for file, remedy in (
        (folder.server_certificate, f"recsys-fed federation renew-certificate {folder.path}"),
        (folder.public / AUTHORITY, "make a new federation"),
    ):
        ends = expiry(file)
        if ends < datetime.now(UTC):
            raise ConfigurationError(
                f"The certificate {file} has expired on {ends:%Y-%m-%d}, silos refuse it: {remedy}"
            )


def _check_port(host: str, port: int) -> None:
    """Raise ConfigurationError for a port that another program has."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As uvicorn does: a port that lately was another process' is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Expected port {port} of {host} to be free: {error.strerror}. End the program that has it, or set "
                "another address or listen in federation.toml."
            ) from error


def serve_silo(settings: SiloSettings, *, insecure: bool, passphrase: str | None, say: _Say) -> int:
    """Run a warm ClientApp and a SuperNode until the ClientApp ends; returns its exit code.

    A SuperNode that ends (the federation does not know its key yet, or any more) is started again, after a pause that
    grows to half a minute. The node key, where it has a passphrase, is handed to Flower as a file in memory.

    Raises:
        ConfigurationError: silo.toml has no root certificate and the operator did not say insecure, or the reverse.
        KeyFileError: the passphrase does not open the node key.
    """
    if (not settings.root_certificate) != insecure:
        raise ConfigurationError(
            "Expected --insecure exactly where silo.toml has no root-certificate: "
            "what is not protected has to be said twice."
        )
    home = Path(settings.folder) / "flower"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    programs, channel = write_program(home / "bin"), home / "clientapp.sock"
    around = {**environment(home, first_on_path=programs), SOCKET: str(channel)}
    key = b"" if insecure else plain_node_key(Path(settings.node_key), passphrase=passphrase)
    worker = [sys.executable, "-m", "recsys_fed.deployment.warm_clientapp", settings.folder]
    with (
        _only_server(home / "serve.lock", what=f"The silo in {settings.folder}"),
        _blocks_while_serving(settings.data),
        _file_in_memory(key) as (number, node_key),
    ):
        say(printed(supernode_command(settings, node_key=settings.node_key, port=9094), home))
        channel.unlink(missing_ok=True)
        with running(worker, environment=around) as warm:
            # The operator's SIGHUP is meant for the process that holds the data.
            signal.signal(signal.SIGHUP, lambda *_: warm.send_signal(signal.SIGHUP))
            wait_until(
                lambda: "" if channel.is_socket() else "it is still reading",
                warm,
                seconds=_START_SECONDS,
                what="the silo's ClientApp to be ready",
            )
            start = partial(_supernode, settings, node_key=node_key, environment=around, number=number)
            _keep_connected(start, warm, settings, passphrase=passphrase, say=say)
            return warm.returncode


def _supernode(
    settings: SiloSettings, *, node_key: str, environment: Mapping[str, str], number: int
) -> AbstractContextManager[Process]:
    """A SuperNode behind its gate, on a port that is free."""
    command = supernode_command(settings, node_key=node_key, port=free_port())
    return running(gated(command), environment=environment, pass_fds=[number])


def _keep_connected(
    start: Callable[[], AbstractContextManager[Process]],
    warm: Process,
    settings: SiloSettings,
    *,
    passphrase: str | None,
    say: _Say,
) -> None:
    """Start a SuperNode whenever there is none, until the ClientApp ends; say why the federation refuses it."""
    pause, said = _FIRST_PAUSE, ""
    while warm.poll() is None:
        started = time.monotonic()
        with start() as process:
            if not said:
                say(f"silo {settings.name} turns to {settings.address}")
            wait_for_end([process, warm])
        pause = _FIRST_PAUSE if time.monotonic() - started > _STEADY else min(2 * pause, _LONGEST_PAUSE)
        if warm.poll() is None:
            reason = standing_of(settings, passphrase=passphrase).reason or "The SuperNode has ended."
            if reason != said:
                say(f"{reason} It is tried again, with pauses of up to {_LONGEST_PAUSE:.0f} s.")
                said = reason
            time.sleep(pause)


@contextmanager
def _blocks_while_serving(data: DataSettings) -> Iterator[None]:
    """Histories of a large silo are on its disk for as long as it serves; a kill leaves them until the next start."""
    clear_blocks(data)
    try:
        yield
    finally:
        clear_blocks(data)


@contextmanager
def _file_in_memory(content: bytes) -> Iterator[tuple[int, str]]:
    """A file that is on no disk: its number, and the path under which a child process opens it."""
    number = os.memfd_create("node-key")
    try:
        os.write(number, content)
        yield number, f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def wait_for_end(processes: Sequence[Process]) -> int:
    """Wait until the first process ends; returns its exit code."""
    while True:
        for process in processes:
            code = process.poll()
            if code is not None:
                return code
        time.sleep(0.2)
