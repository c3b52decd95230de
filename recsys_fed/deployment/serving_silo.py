"""Run a silo's client in the foreground until it is told to stop."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from recsys_fed.deployment._keys import plain_node_key
from recsys_fed.deployment._standing import standing_of
from recsys_fed.deployment.federation import PAUSE, shell_line, supernode_command
from recsys_fed.deployment.serving import START_SECONDS, Say, only_server, wait_for_end
from recsys_fed.deployment.warm_clientapp import SOCKET, write_program
from recsys_fed.errors import ConfigurationError, RecsysFedError
from recsys_fed.federation.admission import read_roster
from recsys_fed.flower import Process, environment, free_port, gate_command, running, wait_until
from recsys_fed.silo.settings import DataSettings, SiloSettings

# Seconds between two questions of a SuperNode for messages: at least, and as Flower has it.
_LEAST_QUIET, _MOST_QUIET = 0.5, 3.0
# Seconds until a SuperNode that ended is started again; one that ran for a minute starts afresh.
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY = 1.0, 30.0, 60.0


def serve_silo(settings: SiloSettings, *, insecure: bool, passphrase: str | None, say: Say) -> int:
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
        only_server(home / "serve.lock", what=f"The silo in {settings.folder}"),
        _blocks_while_serving(settings.data),
        _file_in_memory(key) as (number, node_key),
    ):
        say(shell_line(supernode_command(settings, node_key=settings.node_key, port=9094), home))
        channel.unlink(missing_ok=True)
        with running(worker, environment=around) as warm:
            # The operator's SIGHUP is meant for the process that holds the data.
            signal.signal(signal.SIGHUP, lambda *_: warm.send_signal(signal.SIGHUP))
            wait_until(
                lambda: "" if channel.is_socket() else "it is still reading",
                warm,
                seconds=START_SECONDS,
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
    around = {**environment, PAUSE: f"{_pause(settings):g}"}
    return running(gate_command(command), environment=around, pass_fds=[number])


def _pause(settings: SiloSettings) -> float:
    """Seconds between a SuperNode's questions in a training: all silos together ask the server ten times a second.

    Each question takes the SuperLink some 20 ms. Without a roster it is Flower's 3 s.
    """
    try:
        silos = len(read_roster(Path(settings.roster)))
    except RecsysFedError:
        return _MOST_QUIET
    return min(max(silos / 10, _LEAST_QUIET), _MOST_QUIET)


def _keep_connected(
    start: Callable[[], AbstractContextManager[Process]],
    warm: Process,
    settings: SiloSettings,
    *,
    passphrase: str | None,
    say: Say,
) -> None:
    """Start a SuperNode whenever there is none, until the ClientApp ends; say why the federation refuses it."""
    pause, said = _FIRST_PAUSE, ""
    while warm.poll() is None:
        started = time.monotonic()
        with start() as process:
            if not said:
                say(f"silo {settings.name} turns to {settings.address}")
            wait_for_end([process, warm])
        steady = time.monotonic() - started > _STEADY
        pause, said = (_FIRST_PAUSE, "") if steady else (min(2 * pause, _LONGEST_PAUSE), said)
        if warm.poll() is None:
            reason = standing_of(settings, passphrase=passphrase).reason or "The SuperNode has ended."
            if reason != said:
                say(f"{reason} It is tried again, with pauses of up to {_LONGEST_PAUSE:.0f} s.")
                said = reason
            time.sleep(pause)


@contextmanager
def _blocks_while_serving(data: DataSettings) -> Iterator[None]:
    """Histories of a large silo are on its disk for as long as it serves; a kill leaves them until the next start."""
    if not data.blocks:
        yield
        return
    # With it comes torch, 400 MB that this process needs for nothing else.
    from recsys_fed.silo.on_disk import clear_blocks  # noqa: PLC0415

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
