"""Run a Flower app on a SuperLink and two SuperNodes of one environment, on loopback.

`python real_nodes.py BIN APP OUTPUT`: BIN holds Flower's commands, APP is the app's folder. Any Python runs it.
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

NODES, SECONDS = 2, 900


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that were free a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def main(tools: Path, app: Path, output: Path) -> int:
    """The exit code of `flwr run`; logs of all processes lie beside the app."""
    home = app.parent / "flower"
    home.mkdir()
    port, *others = free_ports(1 + NODES)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    environment |= {
        "PATH": f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin", "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }  # fmt: skip
    link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    link += ["--disable-runtime-dependency-installation"]
    nodes = [
        [
            "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(own),
            "--node-config", f"partition-id={index} num-partitions={NODES}",
        ]
        for index, own in enumerate(others)
    ]  # fmt: skip
    started = []
    try:
        for command in (link, *nodes):
            with (home / f"{command[0]}-{len(started)}.log").open("w") as log:
                started.append(
                    subprocess.Popen(
                        [str(tools / command[0]), *command[1:]], env=environment, cwd=home, stdout=log, stderr=log
                    )
                )
            if command is link:
                wait_for(port, started[0])
        config = f'data="generated:users=200,items=60" output="{output}" silos={NODES} declared-users=200'
        run = [str(tools / "flwr"), "run", str(app), "here", "--stream", "--run-config", config]
        return subprocess.run(run, env=environment, timeout=SECONDS, check=False).returncode
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until somebody listens on a port."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("the SuperLink did not start")


if __name__ == "__main__":
    sys.exit(main(*(Path(argument).resolve() for argument in sys.argv[1:])))
