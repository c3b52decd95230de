"""A whole deployment on one machine: `python -m recsys_fed.deployment.demo FOLDER`, or `make demo-deployment`.

It types what docs/deployment.md says: three operators of silos (Parquet, SQLite, CSV) and one of the federation, real
SuperLink and SuperNode processes on loopback, TLS, node authentication, two trainings of which the second builds on
the first, and recommendations at the end. The silo with
the CSV file also fits a model of its own users (`silo-trusted`). Users are generated; noise, ledgers and secure
aggregation are real.
"""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd

from recsys_fed.data.generate import generate
from recsys_fed.deployment.federation import AUTHORITY, FederationFolder
from recsys_fed.deployment.roster import missing_silos
from recsys_fed.errors import EngineError
from recsys_fed.flower import Process, free_port, healthy, running, scale_timeout, wait_until

_USERS, _ITEMS, _SILOS = 3_000, 400, 3
_PATIENCE = 600.0
_COMMAND = [sys.executable, "-c", "from recsys_fed.cli import main; main()"]


def main(arguments: list[str]) -> int:
    """Run the demonstration in a new folder; what it made stays there. Each step and its time are told."""
    with _time_step("a federation and three silos, from nothing to recommendations"):
        _demonstrate(arguments)
    return 0


def _demonstrate(arguments: list[str]) -> None:
    root = Path(arguments[0] if arguments else "runs/deployment").resolve()
    if root.exists():
        raise EngineError(f"There is a folder {root} already. Name another, or remove it.")
    with _time_step("data is generated"):
        sources = _make_data(root)
    port = free_port()
    federation, catalogue = root / "federation", root / "catalogue.parquet"
    _run(
        "federation", "init", federation, "--catalogue", catalogue, "--silos", _SILOS, "--declared-users", _USERS,
        "--epsilon", 8, "--address", f"127.0.0.1:{port}", "--name", "demonstration",
    )  # fmt: skip
    silos = [root / f"silo-{index}" for index in range(_SILOS)]
    for silo, source in zip(silos, sources, strict=True):
        flags = ["--federation", federation / "public", "--name", silo.name, "--epsilon", 16]
        _run("silo", "init", silo, *flags, "--columns", "user=customer,item=sku", *source)
    _run("federation", "admit", federation, *(silo / f"{silo.name}.pub" for silo in silos))
    for silo in silos:
        _run("silo", "roster", silo, federation / "public" / "roster.json")
        _run("silo", "check", silo, "--offline")
    with _start(root / "server.log", "federation", "serve", federation) as server:
        there = partial(healthy, "127.0.0.1", port, authority=federation / "public" / AUTHORITY)
        with _time_step("the server starts and registers the silos"):
            wait_until(there, server, seconds=_PATIENCE, what="the server")
        with (
            _start(root / "silo-0.log", "silo", "serve", silos[0]),
            _start(root / "silo-1.log", "silo", "serve", silos[1]),
            _start(root / "silo-2.log", "silo", "serve", silos[2]),
        ):
            folder = FederationFolder(federation)
            with _time_step("the silos read their data and connect"):
                wait_until(lambda: missing_silos(folder), server, seconds=_PATIENCE, what="three silos")
            _run("federation", "train", federation, "--epsilon", 4)
            with _time_step("a second training, which builds on the first"):
                _run("federation", "train", federation, "--epsilon", 4, "--continue")
            _run("federation", "status", federation)
    for training in sorted((federation / "trainings").iterdir()):
        _run("privacy", "verify-run", training)
    for silo in silos:
        _run("silo", "recommend", silo, "customer-0" if silo == silos[0] else f"customer-{silo.name[-1]}", "-k", 5)


def _make_data(root: Path) -> list[list[object]]:
    """Generated interactions in three kinds of sources; the flags of `silo init` for each."""
    dataset = generate(n_users=_USERS, n_items=_ITEMS, mean_interactions=30)
    root.mkdir(parents=True)
    dataset.catalogue.save(root / "catalogue.parquet")
    found = dataset.interactions
    table = pd.DataFrame(
        {"customer": "customer-" + pd.Series(found.user.astype(str)), "sku": found.item_ids[found.item]}
    )
    parts = [table[found.user % _SILOS == index] for index in range(_SILOS)]
    parts[0].to_parquet(root / "purchases.parquet")
    with sqlite3.connect(root / "purchases.sqlite") as connection:
        parts[1].to_sql("purchases", connection, index=False)
    parts[2].to_csv(root / "purchases.csv", index=False)
    query = "SELECT customer, sku FROM purchases"
    return [
        ["--source", "parquet", "--path", root / "purchases.parquet"],
        ["--source", "sqlite", "--url", root / "purchases.sqlite", "--query", query],
        ["--source", "csv", "--path", root / "purchases.csv", "--personalisation", "silo-trusted"],
    ]


def _run(*arguments: object) -> None:
    typed = f"recsys-fed {' '.join(map(str, arguments))}"
    with _time_step(f"$ {typed}"):
        limit = scale_timeout(_PATIENCE)
        try:
            done = subprocess.run([*_COMMAND, *map(str, arguments)], check=False, timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"Expected `{typed}` to end within {limit:.0f} s, it did not.") from error
    if done.returncode:
        raise EngineError(f"The command `{typed}` ended with code {done.returncode}.")


@contextmanager
def _time_step(step: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    begun = time.monotonic()
    sys.stderr.write(f"\n{step}\n")
    yield
    sys.stderr.write(f"    {time.monotonic() - begun:.0f} s\n")


@contextmanager
def _start(log: Path, *arguments: object) -> Iterator[Process]:
    sys.stderr.write(f"\n$ recsys-fed {' '.join(map(str, arguments))} &    (output in {log})\n")
    command = [*_COMMAND, *map(str, arguments)]
    with log.open("wb") as output, running(command, environment=os.environ, output=output) as process:
        yield process


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
