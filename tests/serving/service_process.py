"""The service as its operator starts it: `recsys-fed silo api` in a process of its own, on loopback."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

START = "from recsys_fed.cli import main; main()"
SECONDS = 60.0


class ServiceProcess:
    """Started, killed and started again on one folder and one port."""

    def __init__(self, folder, *arguments, port=0):
        self.folder, self.arguments, self.port = folder, arguments, port
        self.process = None

    def start(self):
        command = [sys.executable, "-c", START, "silo", "api", "--state", self.folder, "--port", self.port]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, self.arguments)], stdout=subprocess.PIPE, text=True, env=environment
        )
        line = self.process.stdout.readline()
        while line and "serving on" not in line:
            line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)\s*$", line)[1])
        return self

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def worker(self):
        """The process that answers: the child of the one that was started."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(listed[0]) if listed else None

    def kill_worker(self):
        worker = self.worker()
        if worker is not None:
            os.kill(worker, signal.SIGKILL)

    def kill_all(self):
        """Kill the process that was started; its child ends by itself."""
        self.process.kill()
        self.process.wait()

    def wait_until_ready(self):
        """Seconds until /ready answers."""
        start = time.monotonic()
        while time.monotonic() - start < SECONDS:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5.0).status_code == 200:
                    return time.monotonic() - start
            except httpx.HTTPError:
                time.sleep(0.02)
        raise AssertionError(f"not ready after {SECONDS:g} s")

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=SECONDS)
        return self.process.returncode
