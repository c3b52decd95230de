"""The same load with nobody else, beside clients of the largest batches, and beside connections that ask nothing."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recsys_fed.serving.paths import ServicePaths, TokenFile
from recsys_fed.serving.store import open_store
from simulations.benchmarks.serving import ML_1M_ITEMS, made_service
from simulations.serving.load import Load, load, running_service

RATE, SECONDS = 200.0, 30.0
_USERS, _OTHERS, _CACHED, _BATCH, _CLIENTS, _SLOW = 2_000, 6_000, 4_000, 1_000, 2, 2_000
_HEADS = (
    b"",
    b"GET / HT",
    b"POST /v1/feedback HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{",
    b"GET / HTTP/1.1\r\nx: ",
)


def pressure() -> dict[str, dict[str, float]]:
    """Latency of 200 requests a second for 30 s, in milliseconds, and what went wrong, under each pressure.

    The users of the batches are so many that most of them are in no memory when their turn comes.
    """
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="recsys-fed-") as name:
        folder = Path(name)
        token = made_service(folder, ML_1M_ITEMS, users=_USERS + _OTHERS)
        tokens = TokenFile(ServicePaths(folder=folder).tokens)
        others = [tokens.create(f"other-{number}", ["recommend"]) for number in range(_CLIENTS)]
        (folder / "serving.toml").write_text(f"[api]\ncached-users = {_CACHED}\n", encoding="utf-8")
        arguments = ("--settings", str(folder / "serving.toml"))
        with running_service(folder, *arguments, core=(os.cpu_count() or 1) - 1) as (port, _):
            load(port, _body, token=token, rate=RATE / 4, seconds=2.0)
            found["alone"] = _record(_load_model(port, token))
            with _batches(port, others) as served:
                found["beside two clients of batches"] = _record(_load_model(port, token))
            found["beside two clients of batches"]["batches answered"] = len(served)
            with _slow(port):
                found["beside 2,000 slow connections"] = _record(_load_model(port, token))
                found["beside 2,000 slow connections"]["health, slowest of 20 (ms)"] = _health(port)
    return found


def erasure() -> dict[str, float]:
    """How long it takes, after a user is forgotten, to write the store anew and to cut its log; seconds."""
    with tempfile.TemporaryDirectory(prefix="recsys-fed-") as name:
        place = ServicePaths(folder=Path(name))
        made_service(place.folder, ML_1M_ITEMS, users=_USERS)
        store = open_store(place)
        with store.writing() as connection:
            removed, _ = store.forget(connection, "u7", time=time.time())
        start = time.perf_counter()
        done = store.erase_forgotten()
        seconds = time.perf_counter() - start
        store.close()
        megabytes = Path(place.address).stat().st_size / 1e6
        return {"seconds": round(seconds, 2), "megabytes": round(megabytes, 1), "events removed": removed["events"],
                "done": float(done)}  # fmt: skip


def _load_model(port: int, token: str) -> Load:
    return load(port, _body, token=token, rate=RATE, seconds=SECONDS)


def _body(number: int) -> tuple[str, dict[str, object]]:
    user = f"u{number * 7_919 % _USERS}"
    if number % 10 == 9:
        return "/v1/feedback", {"user": user, "item": f"i{number * 31 % ML_1M_ITEMS}", "kind": "click"}
    return "/v1/recommendations", {"user": user, "limit": 10}


def _record(found: Load) -> dict[str, float]:
    feedback = np.arange(len(found.milliseconds)) % 10 == 9
    quantiles = {f"p{100 * q:g}": round(found.quantile(q), 2) for q in (0.5, 0.99)}
    for name, which in (("recommendations", ~feedback), ("feedback", feedback)):
        quantiles[f"p99 of {name}"] = round(float(np.quantile(found.milliseconds[which], 0.99)), 2)
    return {
        **quantiles,
        "errors": float(found.errors),
        "reopened": float(found.reopened),
        "client's own p99": round(float(np.quantile(found.lag, 0.99)), 2),
    }


@contextmanager
def _batches(port: int, tokens: list[str]) -> Iterator[list[int]]:
    """One client a token, each with one batch after the other; gives a list that grows with the answers."""
    stop, answered = threading.Event(), list[int]()

    def client(number: int, token: str) -> None:
        start = number * _OTHERS // len(tokens)
        while not stop.is_set():
            users = [f"u{_USERS + (start + n) % _OTHERS}" for n in range(_BATCH)]
            start += _BATCH
            content = json.dumps({"users": users, "limit": 10}).encode()
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            url = f"http://127.0.0.1:{port}/v1/recommendations/batch"
            with urllib.request.urlopen(urllib.request.Request(url, content, headers), timeout=120) as answer:
                answer.read()
            answered.append(number)

    clients = [threading.Thread(target=client, args=pair, daemon=True) for pair in enumerate(tokens)]
    for one in clients:
        one.start()
    try:
        yield answered
    finally:
        stop.set()
        for one in clients:
            one.join(timeout=120)


@contextmanager
def _slow(port: int) -> Iterator[None]:
    """A process with connections that send a part of a request, and open again when they are closed."""
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(port,), daemon=True)
    process.start()
    time.sleep(8.0)
    try:
        yield
    finally:
        process.terminate()
        process.join(timeout=30)


def _hold(port: int) -> None:
    async def one(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(_HEADS[number % len(_HEADS)])
                await reader.read()
                writer.close()
            await asyncio.sleep(1.0)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(_SLOW)))

    asyncio.run(all_of_them())


def _health(port: int) -> float:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as asked:
            asked.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if not asked.recv(64).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("/health did not answer")
        times.append(time.perf_counter() - start)
    return round(1e3 * max(times), 1)
