"""The service: recommendations over HTTP at a given rate, and lists in batches beside implicit's."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import httpx
import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from recsys_fed.serving.history import IMPORTED, Event
from recsys_fed.serving.packed_model import Floats, PackedModel, write_packed_model
from recsys_fed.serving.paths import ServicePaths, TokenFile
from recsys_fed.serving.search import best_of_many
from recsys_fed.serving.store import FeedbackStore
from recsys_fed.serving.versions import DIGITS, point_to
from simulations.benchmarks.line import Line
from simulations.serving.load import Load, load, processor_seconds, running_service

ML_1M_ITEMS, MANY_ITEMS, DIM, USERS, HISTORY = 3_706, 100_000, 32, 2_000, 165
RATE, SECONDS, MANY_RATE = 200.0, 30.0, 50.0
_REPEATS, _BATCH, _K, _BATCHES = 9, 1_000, 10, 31
_EVENTS_LINE = f"events made durable a second of a processor, batches of {_BATCH:,} over HTTP"


def serving_lines() -> list[Line]:
    """Latencies at two sizes, and batches."""
    small, small_ms = _over_http(ML_1M_ITEMS, rate=RATE)
    many, many_ms = _over_http(MANY_ITEMS, rate=MANY_RATE)
    at = f"recommend over HTTP, {ML_1M_ITEMS:,} items, {RATE:g} a second for {SECONDS:g} s"
    large = f"recommend over HTTP, {MANY_ITEMS:,} items, {MANY_RATE:g} a second for {SECONDS:g} s"
    ours, theirs = batch_rates()
    events = _events_over_http()
    named = f"lists a second of one core, batches of {_BATCH:,}, {ML_1M_ITEMS:,} items"
    return [
        Line(name=f"{at}: p50", value=small.quantile(0.5), unit="ms", bar=3.0),
        Line(name=f"{at}: p99", value=small.quantile(0.99), unit="ms", bar=15.0),
        Line(name=f"{at}: processor time a request", value=small_ms, unit="ms"),
        Line(name=f"{at}: errors", value=float(small.errors), unit="requests", bar=1.0),
        Line(name="of it the client's own lateness: p99", value=float(np.quantile(small.lag, 0.99)), unit="ms"),
        Line(name=f"{large}: p50", value=many.quantile(0.5), unit="ms", bar=10.0),
        Line(name=f"{large}: processor time a request", value=many_ms, unit="ms"),
        Line(name=f"{large}: p99", value=many.quantile(0.99), unit="ms"),
        Line(name=_EVENTS_LINE, value=events, unit="1/s"),
        Line(name=f"{_EVENTS_LINE}: seconds an event over 1/20,000", value=20_000.0 / events, unit="x", bar=1.0),
        Line(name=named, value=ours, unit="1/s"),
        Line(name=f"{named}: seconds a list over 1/20,000", value=20_000.0 / ours, unit="x", bar=1.0),
        Line(name=f"{named}: implicit's recommend", value=theirs, unit="1/s"),
    ]


def _over_http(n_items: int, *, rate: float) -> tuple[Load, float]:
    """Known users with histories of the usual length ask for ten items; one request in ten is feedback.

    Also the milliseconds of a processor that a request takes: they hardly depend on what else runs on the machine.
    """
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory(prefix="recsys-fed-") as folder:
        token = made_service(Path(folder), n_items)
        users = rng.integers(USERS, size=int(rate * SECONDS)).tolist()
        items = rng.integers(n_items, size=int(rate * SECONDS)).tolist()

        def body(number: int) -> tuple[str, dict[str, object]]:
            if number % 10 == 9:
                return "/v1/feedback", {"user": f"u{users[number]}", "item": f"i{items[number]}", "kind": "click"}
            return "/v1/recommendations", {"user": f"u{users[number]}", "limit": _K}

        core = (os.cpu_count() or 1) - 1
        with running_service(Path(folder), core=core) as (port, process):
            load(port, body, token=token, rate=rate / 4, seconds=2.0)
            before = processor_seconds(process)
            found = load(port, body, token=token, rate=rate, seconds=SECONDS)
            return found, 1e3 * (processor_seconds(process) - before) / len(users)


def _events_over_http() -> float:
    """Events that the service makes durable in a second of a processor, from one client's batches of 1,000."""
    rng = np.random.default_rng(4)
    bodies = [
        [
            {"user": f"u{user}", "item": f"i{item}", "kind": "click", "event": f"{number}-{place}"}
            for place, (user, item) in enumerate(rng.integers([USERS, ML_1M_ITEMS], size=(_BATCH, 2)).tolist())
        ]
        for number in range(_BATCHES)
    ]
    with tempfile.TemporaryDirectory(prefix="recsys-fed-") as folder:
        token, settings = made_service(Path(folder), ML_1M_ITEMS), Path(folder) / "serving.toml"
        settings.write_text("[api]\nburst = 1000000\nrequests-per-second = 1e6\n")
        headers = {"Authorization": f"Bearer {token}"}
        with (
            running_service(Path(folder), "--settings", str(settings)) as (port, process),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60.0) as client,
        ):
            client.post("/v1/feedback/batch", json={"events": bodies[0]}).raise_for_status()
            before = processor_seconds(process)
            for body in bodies[1:]:
                client.post("/v1/feedback/batch", json={"events": body}).raise_for_status()
            return _BATCH * (_BATCHES - 1) / (processor_seconds(process) - before)


def made_service(folder: Path, n_items: int, *, users: int = USERS) -> str:
    """A service's folder with random factors and histories; returns a token."""
    release = _release(n_items)
    place = ServicePaths(folder=folder)
    target = folder / "versions" / release.version[:DIGITS]
    target.mkdir(parents=True)
    write_packed_model(release, target)
    point_to(folder, release.version)
    store, rng = FeedbackStore(place.address, key=place.key()), np.random.default_rng(1)
    own = (rng.choice(n_items, size=HISTORY, replace=False).tolist() for _ in range(users))
    events = (
        Event(user=f"u{user}", item=f"i{row}", kind=IMPORTED, time=0.0)
        for user, rows in enumerate(own)
        for row in rows
    )
    store.replace_imported(events, source="benchmark")
    store.close()
    return TokenFile(place.tokens).create("benchmark", ["recommend", "feedback"])


def _release(n_items: int) -> PackedModel:
    vectors, bias = _factors(n_items), np.zeros(n_items, dtype=np.float32)
    return PackedModel(
        version=sha256(str(n_items).encode()).hexdigest(),
        item_ids=tuple(f"i{row}" for row in range(n_items)),
        titles=tuple(f"The item of number {row} (1999)" for row in range(n_items)),
        categories=((),) * n_items,
        vectors=vectors,
        bias=bias,
        weights=np.ones(n_items, dtype=np.float32),
        gramian=vectors.T.astype(np.float64) @ vectors,
        kind="ridge",
        unobserved_weight=0.3,
        regularization=1.0,
        provenance={},
    )


def _factors(n: int) -> Floats:
    return np.random.default_rng(n).normal(size=(n, DIM)).astype(np.float32)


def batch_rates() -> tuple[float, float]:
    """Lists a second on one thread, of `best_of_many` and of implicit; both alternate, of each the median counts."""
    from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415  (development only)

    release, users, rng = _release(ML_1M_ITEMS), _factors(_BATCH), np.random.default_rng(2)
    without = [np.sort(rng.choice(ML_1M_ITEMS, size=HISTORY, replace=False)) for _ in range(_BATCH)]
    starts = np.arange(0, HISTORY * (_BATCH + 1), HISTORY)
    liked = sparse.csr_matrix((np.ones(starts[-1], dtype=np.float32), np.concatenate(without), starts))
    liked.resize((_BATCH, ML_1M_ITEMS))
    peer = AlternatingLeastSquares(factors=DIM, num_threads=1)
    peer.user_factors, peer.item_factors = users, release.vectors
    with threadpool_limits(1):
        runs = [
            (
                _seconds(lambda: best_of_many(release, users, _K, without=without)),
                _seconds(lambda: peer.recommend(np.arange(_BATCH), liked, N=_K)),
            )
            for _ in range(_REPEATS)
        ]
    ours, theirs = (statistics.median(times) for times in zip(*runs, strict=True))
    return _BATCH / ours, _BATCH / theirs


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
