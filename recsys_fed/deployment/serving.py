"""Run a federation's server, and a silo's client, in the foreground until they are told to stop."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recsys_fed.deployment.federation import (
    AUTHORITY,
    FederationFolder,
    FederationSettings,
    flower_config,
    printed,
    split_address,
    superlink_command,
    supernode_command,
)
from recsys_fed.deployment.gated_superlink import LOG, MOST_BYTES
from recsys_fed.deployment.keys import plain_node_key
from recsys_fed.deployment.roster import synchronise
from recsys_fed.deployment.warm_clientapp import SOCKET, write_program
from recsys_fed.errors import ConfigurationError
from recsys_fed.flower import Process, environment, free_port, healthy, running, wait_until
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
    """A SuperLink with all admitted silos registered, while the block runs.

    Raises:
        ConfigurationError: federation.toml says insecure and the operator did not, or the other way round.
        EngineError: it does not start.
    """
    settings = folder.settings()
    if settings.insecure != insecure:
        raise ConfigurationError(
            "Expected --insecure exactly where federation.toml says insecure: "
            "what is not protected has to be said twice."
        )
    prepare_flower(folder, settings)
    plain = superlink_command(folder, settings)
    say(printed(plain, folder.flower_home))
    command = [sys.executable, "-m", "recsys_fed.deployment.gated_superlink", *plain[1:]]
    variables = {MOST_BYTES: str(settings.most_message_megabytes << 20), LOG: str(folder.log)}
    port = split_address(settings.address)[1]
    authority = None if insecure else folder.public / AUTHORITY
    log = EventLog(folder.log)
    with running(command, environment={**environment(folder.flower_home), **variables}) as process:
        wait_until(
            lambda: not healthy("127.0.0.1", port, authority=authority),
            process,
            seconds=_START_SECONDS,
            what=f"a SuperLink on port {port}",
        )
        if not insecure:
            synchronise(folder, say=lambda flower: say(printed(flower, folder.flower_home)))
        log.write("federation serves", port=port, pid=process.pid)
        say(f"{settings.name} serves on {settings.listen}:{port}")
        yield process


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
    channel.unlink(missing_ok=True)
    around = {**environment(home, first_on_path=programs), SOCKET: str(channel)}
    key = b"" if insecure else plain_node_key(Path(settings.node_key), passphrase=passphrase)
    say(printed(supernode_command(settings, node_key=settings.node_key, port=9094), home))
    worker = [sys.executable, "-m", "recsys_fed.deployment.warm_clientapp", settings.folder]
    with (
        _blocks_while_serving(settings.data),
        _file_in_memory(key) as (number, node_key),
        running(worker, environment=around) as warm,
    ):
        # The operator's SIGHUP is meant for the process that holds the data.
        signal.signal(signal.SIGHUP, lambda *_: warm.send_signal(signal.SIGHUP))
        wait_until(channel.is_socket, warm, seconds=_START_SECONDS, what="the silo's ClientApp to be ready")
        pause = _FIRST_PAUSE
        while warm.poll() is None:
            command, started = supernode_command(settings, node_key=node_key, port=free_port()), time.monotonic()
            with running(command, environment=around, pass_fds=[number]) as process:
                say(f"silo {settings.name} turns to {settings.address}")
                wait_for_end([process, warm])
            pause = _FIRST_PAUSE if time.monotonic() - started > _STEADY else min(2 * pause, _LONGEST_PAUSE)
            if warm.poll() is None:
                say(f"the SuperNode has ended; it is started again in {pause:.0f} s")
                time.sleep(pause)
        return warm.returncode


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
