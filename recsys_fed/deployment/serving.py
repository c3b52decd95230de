"""Run a federation's server in the foreground until it is told to stop.

Nothing heavy is imported: this process only watches another one.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from recsys_fed.deployment._keys import expiry
from recsys_fed.deployment.federation import (
    ADMITTED,
    AUTHORITY,
    HANDED_OUT,
    LOG,
    MOST_BYTES,
    PROBE,
    FederationFolder,
    FederationSettings,
    flower_config,
    shell_line,
    split_address,
    superlink_command,
)
from recsys_fed.deployment.roster import synchronise
from recsys_fed.errors import ConfigurationError, EngineError
from recsys_fed.files import file_lock
from recsys_fed.flower import Process, ask, environment, gate_command, healthy, running, wait_until
from recsys_fed.logs import EventLog

Say = Callable[[str], None]
START_SECONDS = 300.0


def prepare_flower(folder: FederationFolder, settings: FederationSettings) -> None:
    """Write Flower's own configuration for the operator's commands."""
    folder.flower_home.mkdir(parents=True, exist_ok=True)
    (folder.flower_home / "config.toml").write_text(flower_config(folder, settings), encoding="utf-8")


@contextmanager
def serve_federation(folder: FederationFolder, *, insecure: bool, say: Say) -> Iterator[Process]:
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
    variables[HANDED_OUT] = str(folder.public)
    if not insecure:
        variables[ADMITTED] = str(folder.admitted)
    port = split_address(settings.address)[1]
    authority = None if insecure else folder.public / AUTHORITY
    log = EventLog(folder.log)
    with only_server(folder.flower_home / "serve.lock", what=f"The federation in {folder.path}"):
        if not insecure:
            check_certificates(folder)
        check_port(settings.listen, port)
        say(shell_line(plain, folder.flower_home))
        around = {**environment(folder.flower_home), **variables}
        with running(gate_command(plain), environment=around) as process:
            _wait_for_gate(process, port, authority=authority)
            if not insecure:
                synchronise(folder, say=lambda flower: say(shell_line(flower, folder.flower_home)))
            log.write("federation serves", port=port, pid=process.pid)
            say(f"{settings.name} serves on {settings.listen}:{port}; the gate is closed to other accounts")
            yield process


def _wait_for_gate(process: Process, port: int, *, authority: Path | None) -> None:
    """Wait for the SuperLink, and see that the gate refuses what Flower would answer."""
    wait_until(
        lambda: healthy("127.0.0.1", port, authority=authority),
        process,
        seconds=START_SECONDS,
        what=f"a SuperLink on port {port}",
    )
    status = ask("127.0.0.1", port, PROBE, authority=authority).status
    if status != HTTPStatus.FORBIDDEN:
        raise EngineError(
            f"Expected the gate in front of Flower to refuse {PROBE}, got status {status}: nothing is served. "
            "Install the version of flwr that recsys-fed asks for."
        )


@contextmanager
def only_server(lock: Path, *, what: str) -> Iterator[None]:
    """Hold the lock while the block runs; raises ConfigurationError where another process serves."""
    with file_lock(lock) as other:
        if other:
            raise ConfigurationError(f"{what} is served already, by process {other}. End that one first.")
        yield


def check_certificates(folder: FederationFolder) -> None:
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


def check_port(host: str, port: int) -> None:
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


def wait_for_end(processes: Sequence[Process]) -> int:
    """Wait until the first process ends; returns its exit code."""
    while True:
        for process in processes:
            code = process.poll()
            if code is not None:
                return code
        time.sleep(0.2)
