"""Private spectral runs against `implicit`'s ALS and against the bare sparse products, alternating in one process."""

from functools import partial

import torch

from recsys_fed.errors import DataNotFoundError
from simulations.benchmarks.federation_run import (
    ALS_ITERATIONS,
    MOVIELENS_1M,
    MOVIELENS_20M,
    REAL_MOVIELENS_1M,
    Federation,
    als_seconds,
    alternating,
    bare_products,
    private_run,
    timed,
)
from simulations.benchmarks.line import Line

REPETITIONS = 3
# A tenth of ALS' time, and three times the products that any such training needs.
OVER_ALS, OVER_PRODUCTS = 0.1, 3.0


def whole_runs_lines() -> list[Line]:
    """Seconds and ratios on MovieLens-1M where it can be had, and on both sizes; the bars are of the largest."""
    return [
        *_real_lines(),
        *_lines(MOVIELENS_1M, "MovieLens-1M's size", bars=False),
        *_lines(MOVIELENS_20M, "MovieLens-20M's size"),
    ]


def _real_lines() -> list[Line]:
    try:
        REAL_MOVIELENS_1M.train()
    except DataNotFoundError:
        return []
    return _lines(REAL_MOVIELENS_1M, "MovieLens-1M itself", bars=False)


def _lines(federation: Federation, size: str, *, bars: bool = True) -> list[Line]:
    federation.train()
    private_run(federation)
    threads, dim = torch.get_num_threads(), federation.embedding_dim
    ours, products, als = alternating(
        [
            partial(timed, partial(private_run, federation)),
            partial(timed, partial(bare_products, federation, dim=dim)),
            partial(als_seconds, federation, dim=dim, iterations=1, threads=threads),
        ],
        repetitions=REPETITIONS,
    )
    named = f"{federation.rounds - 2} subspace rounds, {federation.silos} silos, {size}"
    against = f"implicit's ALS (d={dim}, {ALS_ITERATIONS} iterations, {threads} threads)"
    return [
        Line(name=f"private spectral run, {named}", value=ours, unit="s"),
        Line(name=f"the same over {against}", value=ours / als, unit="times", bar=OVER_ALS if bars else None),
        Line(
            name="the same over the bare sparse products (scipy, one thread)",
            value=ours / products,
            unit="times",
            bar=OVER_PRODUCTS if bars else None,
        ),
    ]
