"""Flower's own simulation engine: a SuperLink on loopback, `flwr run` on the app folder, Ray underneath.

The plain commands are

    flower-superlink --insecure --simulation --host 127.0.0.1 --port PORT --disable-runtime-dependency-installation
    flwr run APP simulation --run-config run.toml --federation-config 'num-supernodes=N' --stream
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from recsys_fed.config import Value, to_toml
from recsys_fed.errors import EngineError

START_TIMEOUT = 60.0
_POLL = 0.2
_NAME = "simulation"


def run_with_flower(
    app: Path,
    *,
    run_config: Mapping[str, Value],
    n_silos: int,
    folder: Path,
    done: Path,
    timeout: float,
    on_poll: Callable[[], None],
) -> None:
    """Run the apps of `app` with `n_silos` simulated SuperNodes.

    Args:
        app: Flower app folder.
        run_config: flat keys of the run.
        n_silos: number of SuperNodes.
        folder: for Flower's own state and logs of this run.
        done: the file that the ServerApp writes last.
        timeout: seconds for the whole run.
        on_poll: called several times a second while the run goes on.

    Raises:
        EngineError: Flower or Ray is not installed, or the run failed; the end of the log is in the message.
    """
    _require("flower-superlink", "flwr")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").write_text(to_toml(run_config), encoding="utf-8")
    port = _free_port()
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "{_NAME}"\n\n[superlink.{_NAME}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    with _superlink(folder, port):
        log = folder / "run.log"
        command = [
            _tool("flwr"),
            "run",
            str(app),
            _NAME,
            "--run-config",
            str(folder / "run.toml"),
            "--stream",
        ]
        command += ["--federation-config", f"num-supernodes={n_silos} client-resources-num-cpus=1"]
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment(folder))
            try:
                _wait(process, timeout=timeout, on_poll=on_poll)
            finally:
                process.kill()
                process.wait()
        if not done.is_file():
            raise EngineError(f"Expected Flower to finish the run, it did not. The end of its log:\n{_tail(log)}")


@contextmanager
def _superlink(folder: Path, port: int) -> Iterator[None]:
    command = [
        _tool("flower-superlink"),
        "--insecure",
        "--simulation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--disable-runtime-dependency-installation"]
    with (folder / "superlink.log").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment(folder))
        try:
            _until_healthy(process, port, folder / "superlink.log")
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if _healthy(port):
            return
        time.sleep(_POLL)
    raise EngineError(f"Expected a SuperLink on 127.0.0.1:{port}, it did not start:\n{_tail(log)}")


def _healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _wait(process: "subprocess.Popen[bytes]", *, timeout: float, on_poll: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise EngineError(f"Expected the run to end within {timeout:.0f} s, it did not.")
        on_poll()
        time.sleep(_POLL)


def _environment(folder: Path) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": scripts + os.pathsep + os.environ.get("PATH", ""),
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _require(*tools: str) -> None:
    try:
        import ray  # noqa: F401, PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise EngineError('Expected Ray for Flower\'s engine: pip install "recsys-fed[flower]".') from error
    for tool in tools:
        _tool(tool)


def _tool(name: str) -> str:
    """The command beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise EngineError(f"Expected the command {name}, it is not installed: pip install flwr.")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else "(no log)"
