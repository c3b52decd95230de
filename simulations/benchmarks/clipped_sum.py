"""The per-user clipped sum of gradients three ways: rank one, Opacus' per-sample hooks, and without clipping.

All three compute sum_u c_u r_u u^T for the same users of an implicit-ALS loss, with the vectors u given:
r_u = unobserved_weight V u - s_u. The hooks work on a linear layer whose weight is V, the form that suits them best.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from opacus import GradSampleModule
from scipy import sparse

from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.trainers.rank_one import RankOneContributions, clipped_sum
from simulations.benchmarks.line import Line

ITEMS, USERS, DIM, HISTORY = 3_706, 1_024, 64, 100
REPETITIONS, HOOK_REPETITIONS = 9, 3
UNOBSERVED_WEIGHT, CLIP = 0.3, 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """V [n_items, dim], u as rows [n_users, dim], and who interacted with what."""

    vectors: torch.Tensor
    users: torch.Tensor
    histories: Histories


def clipped_sum_lines() -> list[Line]:
    """Median times, alternating in one process, and their ratios.

    Raises:
        ArithmeticError: the ways do not agree, so that there is nothing to compare.
    """
    problem = random_problem(n_items=ITEMS, n_users=USERS, dim=DIM, history=HISTORY)
    if not torch.allclose(rank_one(problem), with_hooks(problem), rtol=1e-3, atol=1e-4):
        raise ArithmeticError("Expected the clipped sum by rank one to equal that of Opacus' hooks.")
    seconds: dict[str, list[float]] = {"clipped": [], "plain": [], "hooks": []}
    for repetition in range(REPETITIONS):
        seconds["clipped"].append(_timed(rank_one, problem))
        seconds["plain"].append(_timed(without_clipping, problem))
        if repetition < HOOK_REPETITIONS:
            seconds["hooks"].append(_timed(with_hooks, problem))
    clipped, plain, hooks = (statistics.median(values) for values in seconds.values())
    size = f"{ITEMS:,} items, {USERS:,} users, d={DIM}"
    return [
        Line(name=f"clipped sum by rank one ({size})", value=1e3 * clipped, unit="ms"),
        Line(name="the same sum without clipping", value=1e3 * plain, unit="ms"),
        Line(name="the same by Opacus' per-sample hooks", value=1e3 * hooks, unit="ms"),
        Line(name="rank one over no clipping", value=clipped / plain, unit="times"),
        Line(name="Opacus' hooks over rank one", value=hooks / clipped, unit="times"),
    ]


def random_problem(*, n_items: int, n_users: int, dim: int, history: int) -> Problem:
    """Random vectors and histories of `history` items a user."""
    rng = np.random.default_rng(0)
    columns = np.concatenate([rng.choice(n_items, history, replace=False) for _ in range(n_users)])
    rows = np.repeat(np.arange(n_users), history)
    matrix = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n_users, n_items))
    generator = torch.Generator().manual_seed(0)
    return Problem(
        vectors=torch.randn(n_items, dim, generator=generator) / dim**0.5,
        users=torch.randn(n_users, dim, generator=generator),
        histories=histories_of(matrix),
    )


def contributions(problem: Problem) -> RankOneContributions:
    """Every user's gradient as a rank-one matrix."""
    histories = problem.histories
    fitted = (problem.vectors[histories.items] * problem.users[histories.users]).sum(1)
    return RankOneContributions(
        histories=histories,
        values=fitted - 1.0,
        basis=problem.vectors,
        coefficients=UNOBSERVED_WEIGHT * problem.users,
        right=problem.users,
    )


def rank_one(problem: Problem) -> torch.Tensor:
    """The library's way."""
    return clipped_sum(contributions(problem), l2_clip_norm=CLIP)


def without_clipping(problem: Problem) -> torch.Tensor:
    """The same products with every factor 1: what training without privacy does."""
    batch = contributions(problem)
    summed = batch.histories.transposed_times(batch.values, batch.right)
    return summed + batch.basis @ (batch.coefficients.T @ batch.right)


def with_hooks(problem: Problem) -> torch.Tensor:
    """Opacus' stock hooks: a gradient [n_items, dim] of every user, then clipped and summed."""
    layer = torch.nn.Linear(problem.vectors.shape[1], len(problem.vectors), bias=False)
    with torch.no_grad():
        layer.weight.copy_(problem.vectors)
    module = GradSampleModule(layer, loss_reduction="sum")
    scores = module(problem.users)
    histories = problem.histories
    observed = scores[histories.users, histories.items]
    loss = ((1 - observed).square().sum() + UNOBSERVED_WEIGHT * scores.square().sum()) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        loss.backward()
    gradients: torch.Tensor = layer.weight.grad_sample  # type: ignore[attr-defined]
    factors = clip_factors(gradients.flatten(1).norm(dim=1).double(), l2_clip_norm=CLIP).float()
    return torch.einsum("u,uij->ij", factors, gradients)


def _timed(way: Callable[[Problem], torch.Tensor], problem: Problem) -> float:
    start = time.perf_counter()
    way(problem)
    return time.perf_counter() - start
