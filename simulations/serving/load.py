"""Load over HTTP: requests start at their own times, whether or not the answers before have come.

A client that waits for each answer would hide every pause of the service behind its own silence.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_START = "from recsys_fed.cli import main; main()"
_CONNECTIONS = 16
_SECONDS = 60.0
Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Load:
    """What came of a load.

    Attributes:
        milliseconds: from the time at which a request was due to its whole answer, [n].
        errors: requests without a 200.
        lag: the same for the client alone: how late it sent, in milliseconds, [n].
        reopened: connections that were closed before an answer began, and were opened again, as every client does.
    """

    milliseconds: Floats64
    errors: int
    lag: Floats64
    reopened: int = 0

    def quantile(self, q: float) -> float:
        """Of the milliseconds."""
        return float(np.quantile(self.milliseconds, q))


@contextmanager
def running_service(folder: Path, *arguments: str, core: int | None = None) -> Iterator[tuple[int, int]]:
    """`recsys-fed silo api` on a folder, on one core if asked for; gives its port and process."""
    command = [sys.executable, "-c", _START, "silo", "api", "--state", str(folder), "--port", "0", *arguments]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            line = ""
            while "serving on" not in line:
                line = process.stdout.readline() if process.stdout is not None else ""
                if not line:
                    raise RuntimeError("the service did not start")
            port = re.search(r":(\d+)\s*$", line)
            yield (int(port[1]) if port else 0), process.pid
        finally:
            process.terminate()


def processor_seconds(process: int) -> float:
    """What the process that answers, the child of `process`, has used of a processor since it started."""
    child = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()[0]
    fields = Path(f"/proc/{child}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(
    port: int, body: Callable[[int], tuple[str, dict[str, object]]], *, token: str, rate: float, seconds: float
) -> Load:
    """Send `rate` requests a second for so many seconds; `body` gives path and JSON of request number n."""
    return asyncio.run(_load(port, body, token=token, rate=rate, n=int(rate * seconds)))


async def _load(
    port: int, body: Callable[[int], tuple[str, dict[str, object]]], *, token: str, rate: float, n: int
) -> Load:
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(_CONNECTIONS):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    taken, lag, failed, reopened = np.zeros(n), np.zeros(n), 0, 0
    start = time.perf_counter() + 0.1

    async def one(number: int) -> None:
        nonlocal failed, reopened
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        lag[number] = time.perf_counter() - due
        reader, writer = await free.get()
        path, record = body(number)
        status = await _ask(reader, writer, path, record, token)
        while status is None:
            reopened += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status = await _ask(reader, writer, path, record, token)
        taken[number] = time.perf_counter() - due
        failed += status != 200
        free.put_nowait((reader, writer))

    await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(n))), timeout=n / rate + _SECONDS)
    while not free.empty():
        free.get_nowait()[1].close()
    return Load(milliseconds=1e3 * taken, errors=failed, lag=1e3 * lag, reopened=reopened)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, record: dict[str, object], token: str
) -> int | None:
    """Send one request on an open connection and read its answer; the status, None if it was closed before."""
    content = json.dumps(record).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    try:
        writer.write(head.encode() + content)
        answer = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    length = re.search(rb"content-length: (\d+)", answer)
    await reader.readexactly(int(length[1]) if length else 0)
    return int(answer[9:12])
