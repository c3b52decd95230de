"""Several processes, or threads, that spend from one ledger at once."""

import json
import os
import select
import signal
import threading
import time

from ledger_kit import KEY, charged

from recsys_fed.errors import BudgetExceededError
from recsys_fed.ledger.ledger import Ledger

DEADLINE = 120.0


def spend(ledger: Ledger, name: str, noises: list[float]) -> list[float]:
    """Charge one release after the other; the noises of those that were not refused."""
    paid = []
    for number, noise in enumerate(noises):
        try:
            charged(ledger, f"{name} {number}", run=name, noise_multiplier=noise)
        except BudgetExceededError:
            continue
        paid.append(noise)
    return paid


def spent_by_processes(url: str, plans: dict[str, list[float]]) -> dict[str, list[float]]:
    """Let one process for each name spend its plan, all at once; each opens the ledger for itself."""
    start = os.pipe()
    children = {name: _forked(url, name, noises, start) for name, noises in plans.items()}
    os.close(start[0])
    # All of them wait for the end of this pipe.
    os.close(start[1])
    deadline, paid = time.monotonic() + DEADLINE, {}
    for name, (child, answer) in children.items():
        ready, _, _ = select.select([answer], [], [], max(0.0, deadline - time.monotonic()))
        content = os.read(answer, 65_536) if ready else b""
        os.close(answer)
        if not ready:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        paid[name] = json.loads(content or b"null")
    return paid


def _forked(url: str, name: str, noises: list[float], start: tuple[int, int]) -> tuple[int, int]:
    """A fork that spends as soon as the pipe `start` is closed, and the pipe that its answer comes by."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        ledger = Ledger.open(url, key=KEY)
        os.close(start[1])
        os.read(start[0], 1)
        os.write(writing, json.dumps(spend(ledger, name, noises)).encode())
    finally:
        os._exit(0)


def spent_by_threads(ledger: Ledger, plans: dict[str, list[float]]) -> dict[str, list[float]]:
    """Let one thread for each name spend its plan, all at once."""
    start, paid = threading.Barrier(len(plans)), {}

    def run(name: str) -> None:
        start.wait(timeout=DEADLINE)
        paid[name] = spend(ledger, name, plans[name])

    threads = [threading.Thread(target=run, args=(name,)) for name in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=DEADLINE)
    return paid
