"""A federation of real processes on loopback, started and ended by the command that its operators use."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from deployment_kit import Deployed

from recsys_fed.deployment.federation import AUTHORITY, split_address
from recsys_fed.deployment.roster import admitted_silos
from recsys_fed.deployment.training import _last_training
from recsys_fed.flower import healthy, scale_timeout

COMMAND = [sys.executable, "-c", "from recsys_fed.cli import main; main()"]
# A busy machine of two cores takes long to import torch in four processes.
PATIENCE = 400.0


class RealFederation:
    """One process group each for the server and every silo, so that a kill takes all of it, as a power cut would."""

    def __init__(self, there: Deployed, logs: Path, *, insecure: bool = False) -> None:
        self.there, self._logs = there, logs
        self._flags = ["--insecure"] if insecure else []
        self._insecure = insecure
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(exist_ok=True)

    def command(self, *arguments: object, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run a command of the operators to its end."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment(),
        )

    def start(self, name: str, *arguments: object) -> "subprocess.Popen[bytes]":
        """Start a command in a process group of its own."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*COMMAND, *map(str, arguments)], stdout=log, stderr=log, start_new_session=True, env=environment()
            )
        return self._running[name]

    def process(self, name: str) -> "subprocess.Popen[bytes]":
        """One that was started."""
        return self._running[name]

    def start_server(self) -> None:
        """Start the federation's server and wait until it answers and knows the admitted silos."""
        process = self.start("server", "federation", "serve", self.there.federation.path, *self._flags)
        authority = None if self._insecure else self.there.federation.public / AUTHORITY
        port = split_address(self.there.federation.settings().address)[1]
        wait_for(lambda: not healthy("127.0.0.1", port, authority=authority), process)
        if not self._insecure:
            wait_for(self._know_each_other, process)

    def _know_each_other(self) -> bool:
        """Whether the server has registered every admitted silo."""
        path = self.there.federation.flower_home / "nodes.json"
        return path.is_file() and len(json.loads(path.read_text())) == len(admitted_silos(self.there.federation))

    def start_silo(self, index: int) -> None:
        """Start one silo; it needs a while to be ready."""
        self.start(f"silo-{index}", "silo", "serve", self.there.silos[index], *self._flags)

    def start_all(self) -> None:
        """Server and silos."""
        self.start_server()
        for index in range(len(self.there.silos)):
            self.start_silo(index)

    def train(self, *arguments: object) -> "subprocess.Popen[bytes]":
        """Start or resume a training; `finished` says when it is over."""
        flags = ["--timeout", int(scale_timeout(600))]
        return self.start("train", "federation", "train", self.there.federation.path, *flags, *arguments)

    def kill(self, name: str) -> None:
        """SIGKILL to the whole group."""
        process = self._running.pop(name, None)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)

    def finish(self, process: "subprocess.Popen[bytes]", *, timeout: float = PATIENCE) -> Path:
        """Wait for a training; returns its folder."""
        code = process.wait(timeout=scale_timeout(timeout))
        training = _last_training(self.there.federation)
        if code:
            raise AssertionError(f"the training ended with {code}\n{self.logs()}\n{tail(training / 'flower.log')}")
        return training

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"== {path.name}\n{tail(path)}" for path in sorted(self._logs.glob("*.log")))

    def stop(self) -> None:
        """End everything that was started, by its group."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        for name, process in list(self._running.items()):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            self.kill(name)


def environment() -> dict[str, str]:
    """One thread a process: several share the machine."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def wait_for(there, process, seconds: float = PATIENCE) -> None:
    """Wait until something is there while a process runs."""
    deadline = time.monotonic() + scale_timeout(seconds)
    while not there():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"it ended with {process.poll()} or did not come in time")
        time.sleep(0.2)


def tail(path: Path, lines: int = 30) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else "(none)"


def log_lines(path: Path) -> list[dict[str, object]]:
    """A structured log."""
    return [json.loads(line) for line in path.read_text().splitlines()]
