"""A local step of dp-sgd with and without privacy: processor time and peak memory, over sizes of the catalogue.

Twenty steps on the same Poisson samples of the same users, both with one thread: `local_steps` as the trainer runs it
(sampling, fold-in, clipping, rounding, noise of all rows included), and `plain_round`, the same steps without
privacy as one would write them in torch (float32, the same sparse products, no factors, no noise). Alternating
rounds, median of the ratios. Smaller catalogues train on implicit ALS, which reads every row; large ones on bce,
whose untouched rows get their noise at the end. Memory is the resident peak of a child process above what it held
before the round, with the allocator set as a silo sets it (`models.device`), for either round; it counts the holes
that arrays leave, which differ from process to process by a few megabytes, so that small catalogues take the median
of several. Time is taken with the allocator as it comes, for either round.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import sparse

from recsys_fed.models.device import return_large_arrays, use_threads
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.privacy.integer_mechanism import IntegerMechanism, grid_step
from recsys_fed.privacy.noise import SeededNoise, SystemNoise, poisson_sample
from recsys_fed.trainers.local_steps import Task, local_steps
from recsys_fed.trainers.loss import Clipping
from recsys_fed.trainers.losses import loss_of
from recsys_fed.trainers.trainer import LocalNoise
from simulations.benchmarks.line import Line
from simulations.benchmarks.peak_memory import peak_megabytes, print_peak
from simulations.benchmarks.plain_steps import plain_round

DIM, HISTORY, NEGATIVES, STEPS = 64, 100, 64, 20
NOISE_MULTIPLIER, PROBABILITY = 8.0, 0.5
TIME_BAR, MEMORY_BAR = 1.5, 1.2


@dataclass(frozen=True, kw_only=True)
class Case:
    """A size: users expected in a step, items and loss; how often it is timed, and weighed in processes."""

    n_items: int
    batch: int
    loss: str
    rounds: int = 3
    processes: int = 1

    @property
    def label(self) -> str:
        """What is measured."""
        return f"{self.loss}, {self.n_items:,} items, {self.batch:,} users a step, d={DIM}"


CASES = (
    Case(n_items=3_706, batch=1_024, loss="implicit-als", rounds=9, processes=9),
    Case(n_items=27_000, batch=1_024, loss="implicit-als", rounds=9, processes=3),
    Case(n_items=27_000, batch=8_192, loss="implicit-als"),
    Case(n_items=100_000, batch=8_192, loss="bce"),
    Case(n_items=1_000_000, batch=8_192, loss="bce"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A silo, and where its round starts."""

    case: Case
    histories: Histories
    vectors: torch.Tensor


def dp_sgd_step_lines() -> list[Line]:
    """Time and memory of every case, private over plain."""
    use_threads(1)
    return [line for case in CASES for line in _case_lines(case)]


def _case_lines(case: Case) -> list[Line]:
    problem = problem_of(case)
    seconds: dict[str, list[float]] = {"private": [], "plain": []}
    for repetition in range(case.rounds):
        for name, measured in seconds.items():
            measured.append(_time(ROUNDS[name], problem, seed=repetition))
    private, plain = (statistics.median(values) / STEPS for values in seconds.values())
    ratio = statistics.median(a / b for a, b in zip(seconds["private"], seconds["plain"], strict=True))
    peaks = [{name: _megabytes(case, name) for name in ROUNDS} for _ in range(case.processes)]
    memory = {name: statistics.median(found[name] for found in peaks) for name in ROUNDS}
    return [
        Line(name=f"private step ({case.label})", value=1e3 * private, unit="ms"),
        Line(name="the same without privacy", value=1e3 * plain, unit="ms"),
        Line(name=f"private over plain: time ({case.label})", value=ratio, unit="times", bar=TIME_BAR),
        Line(
            name=f"private over plain: memory ({case.label})",
            value=memory["private"] / memory["plain"],
            unit="times",
            bar=MEMORY_BAR,
        ),
        Line(name="memory of the private round above the data", value=memory["private"], unit="MB"),
    ]


def problem_of(case: Case) -> Problem:
    """A silo whose items have a long tail: the item of rank r is drawn in proportion to 1 / (r + 10)."""
    rng, n_users = np.random.default_rng(0), round(case.batch / PROBABILITY)
    weights = 1.0 / (np.arange(case.n_items) + 10.0)
    edges = np.cumsum(weights / weights.sum())
    drawn = np.searchsorted(edges, rng.random((n_users, 2 * HISTORY))).clip(max=case.n_items - 1)
    rows = np.repeat(np.arange(n_users), 2 * HISTORY)
    matrix = sparse.csr_matrix((np.ones(drawn.size, np.int8), (rows, drawn.ravel())), shape=(n_users, case.n_items))
    generator = torch.Generator().manual_seed(0)
    return Problem(
        case=case,
        histories=histories_of(_shorten(matrix)),
        vectors=torch.randn(case.n_items, DIM, generator=generator) / DIM,
    )


def _shorten(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """At most HISTORY items a user, whichever."""
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    kept = np.random.default_rng(1).permuted(place) < HISTORY
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))[kept]
    return sparse.csr_matrix((np.ones(len(rows), np.int8), (rows, matrix.indices[kept])), shape=matrix.shape)


def private_round(problem: Problem, *, seed: int) -> torch.Tensor:
    """V after the round, as the server computes it from the released integers."""
    case, settings = problem.case, {"learning_rate": 3.0, "expected_batch_size": float(problem.case.batch)}
    step = grid_step(
        noise_multiplier=NOISE_MULTIPLIER,
        l2_clip_norm=1.0,
        declared_users=problem.histories.n_users,
        entries=problem.vectors.numel(),
        steps=STEPS,
    )
    mechanism = IntegerMechanism(
        noise_multiplier=NOISE_MULTIPLIER, l2_clip_norm=1.0, grid_step=step, entries=problem.vectors.numel()
    )
    noise = LocalNoise(
        mechanism=mechanism,
        sampling_probability=PROBABILITY,
        steps=STEPS,
        source=SystemNoise(),
        sampling=SeededNoise(seed),
    )
    head = torch.arange(case.n_items)
    return local_steps(task_of(case), problem.vectors, problem.histories, head=head, settings=settings, noise=noise)


def plain(problem: Problem, *, seed: int) -> torch.Tensor:
    """V after the same round without privacy."""
    generator, source = torch.Generator().manual_seed(seed), SeededNoise(seed)
    samples = (poisson_sample(problem.histories.n_users, PROBABILITY, source) for _ in range(STEPS))
    return plain_round(
        task_of(problem.case), problem.vectors, problem.histories, samples=samples, generator=generator
    )


ROUNDS: dict[str, Callable[..., torch.Tensor]] = {"private": private_round, "plain": plain}


def task_of(case: Case) -> Task:
    """What both rounds minimise."""
    loss = loss_of(case.loss)
    return Task(
        loss=loss,
        how=loss.fold_in(unobserved_weight=0.3, regularization=1.0),
        unobserved_weight=0.3,
        n_negatives=NEGATIVES,
        clipping=Clipping(l2_clip_norm=1.0),
    )


def _megabytes(case: Case, name: str) -> float:
    return peak_megabytes(__spec__.name, json.dumps([case.n_items, case.batch, case.loss, name]))


def _child(record: str) -> None:
    n_items, batch, loss, name = json.loads(record)
    use_threads(1)
    return_large_arrays()
    work = partial(ROUNDS[name], problem_of(Case(n_items=n_items, batch=batch, loss=loss)), seed=0)
    print_peak(work, warm=partial(ROUNDS[name], problem_of(Case(n_items=500, batch=50, loss=loss)), seed=0))


def _time(way: Callable[..., torch.Tensor], problem: Problem, *, seed: int) -> float:
    start = time.process_time()
    way(problem, seed=seed)
    return time.process_time() - start


if __name__ == "__main__":
    _child(sys.argv[1])
