"""A silo that is killed at random moments while it answers, and is started again until all is sent.

Run as a program, so that no other thread is there when it forks: FOLDER KILLS BYTES, BYTES being the
size of a payload: a long one makes a transaction many writes to the log. Each spender is a fork
that asks its ledger and appends what may leave to a file; the parent kills it with SIGKILL.
"""

import itertools
import json
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ledger_kit import KEY, charge, created, digest, kept, settle

from recsys_fed.ledger.ledger import Ledger

LEDGER, WITNESS, COMPUTED, SENT, REPORT = "ledger.sqlite", "witness", "computed", "sent", "report.json"


def spend(folder: Path, size: int, saying: int) -> None:
    """Answer request after request for ever. The peer asks each one twice, and after a crash what it lacks."""
    ledger = Ledger.open(str(folder / LEDGER), key=KEY, witness=folder / WITNESS)
    os.close(saying)
    for asked in itertools.count(2 * len(sent(folder))):
        number = asked // 2
        request = f"request {number}"
        payload = kept(ledger, request)
        if payload is None:
            entry = charge(ledger, request, noise_multiplier=20.0, round=number)
            payload = f"{entry.draw} ".encode() + os.urandom(size)
            append(folder / COMPUTED, f"{entry.draw} {digest(payload)}")
            payload = settle(ledger, request, payload)
        append(folder / SENT, f"{number} {payload[:64].decode()} {digest(payload)}")


def append(path: Path, line: str) -> None:
    """Add a line in one write."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode() + b"\n")
    os.close(file)


def lines(path: Path) -> list[list[str]]:
    """The words of each line that was appended."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def sent(folder: Path) -> list[int]:
    """Requests that were answered, in order, each once."""
    return sorted({int(number) for number, _, _ in lines(folder / SENT)})


def killed_after(seconds: float, target: Callable[[int], None]) -> None:
    """Fork, and kill the fork -9 so many seconds after it has said that it is open."""
    ready, saying = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            target(saying)
        finally:
            os._exit(1)
    os.close(saying)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise RuntimeError("Expected the spender to live until it was killed, it ended by itself.")


def uncommitted_frames(folder: Path) -> int:
    """Frames at the end of SQLite's write-ahead log that no commit covers (https://sqlite.org/fileformat2.html)."""
    log = folder / (LEDGER + "-wal")
    content = log.read_bytes() if log.exists() else b""
    if len(content) < 32:
        return 0
    page, salts = struct.unpack(">I", content[8:12])[0], content[16:24]
    open_frames = 0
    for start in range(32, len(content) - 23, 24 + page):
        if content[start + 8 : start + 16] != salts:
            break
        committed = struct.unpack(">I", content[start + 4 : start + 8])[0]
        open_frames = 0 if committed else open_frames + 1
    return open_frames


def main(folder: Path, kills: int, size: int) -> None:
    """Kill so many spenders; report what the kills hit."""
    rng = random.Random(kills)
    created(folder / LEDGER, witness=folder / WITNESS).close()
    hit = {"kills": kills, "inside a transaction": 0, "charged, not settled": 0, "settled, not sent": 0}
    lived = 0.0
    for _ in range(kills):
        # About two releases a life, on a machine of any speed.
        a_release = (0.2 + lived) / (1 + len(sent(folder)))
        seconds = rng.uniform(0, 4 * a_release)
        killed_after(seconds, lambda saying: spend(folder, size, saying))
        lived += seconds
        hit["inside a transaction"] += uncommitted_frames(folder) > 0
        last, settled = newest_request(folder)
        hit["charged, not settled"] += last >= 0 and not settled
        hit["settled, not sent"] += settled and last not in sent(folder)
    (folder / REPORT).write_text(json.dumps(hit))


def newest_request(folder: Path) -> tuple[int, bool]:
    """The number of the request that was charged last (-1: none), and whether its payload is settled."""
    # A copy: to open the ledger would clean up after the kill, which is the next spender's business.
    copy = folder / "copy"
    copy.mkdir(exist_ok=True)
    for name in (LEDGER, LEDGER + "-wal"):
        (copy / name).unlink(missing_ok=True)
        if (folder / name).exists():
            (copy / name).write_bytes((folder / name).read_bytes())
    (copy / (LEDGER + "-shm")).unlink(missing_ok=True)
    ledger = Ledger.open(str(copy / LEDGER))
    newest = ledger.newest(1, run="run")
    number = newest[0].body.event.round if newest else -1
    return number, kept(ledger, f"request {number}") is not None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
