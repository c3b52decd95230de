"""A private spectral run on the in-process engine as benchmarks time it, and what it is compared with."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from client.state import forget_histories
from recsys_fed.config import FederationConfig, SimulationConfig, flat
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.federation.planning import PublicCatalogue, planned_schedule
from recsys_fed.simulation.flower_engine import load_apps
from recsys_fed.simulation.runner import one_digit
from recsys_fed.trainers.spectral import size

# What the run is compared with: as many iterations as `implicit` does by default, as many factors as dimensions.
ALS_ITERATIONS = 15
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Data spread over silos; counts, co-occurrence and two subspace rounds are trained.

    Without a `source`, the name of a data set, they are generated in the size given.
    """

    n_users: int
    n_items: int
    mean_interactions: int
    silos: int = 10
    rounds: int = 4
    source: str = ""

    @property
    def data(self) -> SimulationConfig:
        """The source, or the generator's specification."""
        if self.source:
            return SimulationConfig(data=self.source)
        sizes = f"users={self.n_users},items={self.n_items},interactions={self.mean_interactions}"
        return SimulationConfig(data=f"generated:{sizes}")

    @property
    def agreed(self) -> FederationConfig:
        """What server and silos agree on: epsilon 8, every silo adds its own noise; training alone is measured."""
        return FederationConfig(
            silos=self.silos, rounds=self.rounds, declared_users=one_digit(self.n_users), metrics_epsilon=0.0
        )

    @property
    def embedding_dim(self) -> int:
        """Dimensions of the run: those of the trainer's rule."""
        items = simulated_federation(self.data, silos=self.silos, seed=_SEED).catalogue
        plan = planned_schedule(self.agreed, PublicCatalogue(n_items=items.n_items, items=items))
        return size(plan.facts).embedding_dim

    def train(self) -> sparse.csr_matrix:
        """All silos' training interactions, csr [n_users, n_items]; made once a process."""
        return simulated_federation(self.data, silos=self.silos, seed=_SEED).train


MOVIELENS_1M = Federation(n_users=6_040, n_items=3_706, mean_interactions=165)
REAL_MOVIELENS_1M = replace(MOVIELENS_1M, source="ml-1m")
MOVIELENS_20M = Federation(n_users=138_000, n_items=27_000, mean_interactions=148)


def private_run(federation: Federation) -> None:
    """Everything but the reading of data: the silos' tensors, calibration, clipping, noise, accounting, engine."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    server_app, client_app = load_apps()
    forget_histories()
    config = flat(federation.agreed) | flat(federation.data)
    run_in_process(server_app, client_app, run_config=config, n_silos=federation.silos)


def bare_products(federation: Federation, *, dim: int) -> None:
    """X^T (X W) by scipy in float32 for all users together, as many times as there are subspace rounds."""
    matrix = federation.train()
    table = np.random.default_rng(0).standard_normal((federation.n_items, dim)).astype(np.float32)
    for _ in range(federation.rounds - 2):
        matrix.T @ (matrix @ table)


def als_seconds(federation: Federation, *, dim: int, iterations: int, threads: int) -> float:
    """Seconds of `implicit`'s ALS with ALS_ITERATIONS, from its start-up and the median of a few iterations."""
    seconds: list[float] = []
    model = AlternatingLeastSquares(
        factors=dim, iterations=iterations, num_threads=threads, random_state=0, calculate_training_loss=False
    )
    with threadpool_limits(1, "blas"):
        start = time.perf_counter()
        model.fit(federation.train(), show_progress=False, callback=lambda _number, took, _loss: seconds.append(took))
        whole = time.perf_counter() - start
    return whole - sum(seconds) + ALS_ITERATIONS * statistics.median(seconds)


def alternating(ways: Sequence[Callable[[], float]], *, repetitions: int) -> list[float]:
    """Median of what each way returns, called in turn so that other load falls on all of them alike."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(repetitions):
        for way, values in zip(ways, found, strict=True):
            values.append(way())
    return [statistics.median(values) for values in found]


def timed(work: Callable[[], None]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
