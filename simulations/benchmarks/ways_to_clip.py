"""Ways to the per-user clipped sum of gradients: rank one, Opacus' per-sample hooks, its ghost clipping, unclipped.

All compute sum_u c_u r_u u^T for the same users and the same loss, with the vectors u given. Two losses: implicit ALS
over the whole catalogue (r_u = unobserved_weight V u - s_u), where Opacus works on a linear layer whose weight is V,
the form that suits it best; and matrix factorisation with one interaction a sample (r_u = s - 1 at one item), where
it works on nn.Embedding. As in a round of local steps the sum goes into a table that is there already, and V^T V is
known, which the fold-in that gave u has needed.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from scipy import sparse

from recsys_fed.models.exact_scores import observed_scores
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.models.items import gramian_of
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.trainers.rank_one import RankOneContributions, clip

UNOBSERVED_WEIGHT, CLIP = 0.3, 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """V [n_items, dim], u as rows [n_users, dim], who interacted with what, and what is there before a step."""

    vectors: torch.Tensor
    users: torch.Tensor
    histories: Histories

    @cached_property
    def gramian(self) -> torch.Tensor:
        """V^T V."""
        return gramian_of(self.vectors)

    @cached_property
    def total(self) -> torch.Tensor:
        """Where the clipped sum goes, float64 [n_items, dim]."""
        return torch.zeros(self.vectors.shape, dtype=torch.float64)


Way = Callable[[Problem], torch.Tensor]


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
    fitted = observed_scores(problem.histories, problem.users, problem.vectors)
    return RankOneContributions(
        histories=problem.histories,
        values=fitted - 1.0,
        basis=problem.vectors,
        coefficients=UNOBSERVED_WEIGHT * problem.users,
        right=problem.users,
        reads=UNOBSERVED_WEIGHT * fitted,
        gramian=problem.gramian,
    )


def rank_one(problem: Problem) -> torch.Tensor:
    """The library's way."""
    return clip(contributions(problem), l2_clip_norm=CLIP).into(problem.total)


def one_interaction(problem: Problem) -> torch.Tensor:
    """The library's way, for (1 - s)^2 / 2 at one item a user."""
    nothing = problem.vectors.new_zeros(problem.vectors.shape[0], 0), problem.vectors.new_zeros(len(problem.users), 0)
    fitted = observed_scores(problem.histories, problem.users, problem.vectors)
    batch = RankOneContributions(
        histories=problem.histories,
        values=fitted - 1.0,
        basis=nothing[0],
        coefficients=nothing[1],
        right=problem.users,
    )
    return clip(batch, l2_clip_norm=CLIP).into(problem.total)


def without_clipping(problem: Problem) -> torch.Tensor:
    """The same products with every factor 1, in float32: what training without privacy does."""
    histories, vectors, users = problem.histories, problem.vectors, problem.users
    pattern = torch.sparse_csr_tensor(
        histories.starts.to(histories.items.dtype),
        histories.items,
        torch.zeros(len(histories.items)),
        size=(len(users), len(vectors)),
    )
    fitted = torch.sparse.sampled_addmm(pattern, users, vectors.T, beta=0.0).values()
    return histories.transposed_times(fitted - 1.0, users) + vectors @ (UNOBSERVED_WEIGHT * (users.T @ users))


def with_hooks(problem: Problem) -> torch.Tensor:
    """Opacus' stock hooks: a gradient [n_items, dim] of every user, then clipped and summed."""
    layer = _linear(problem)
    module = GradSampleModule(layer, loss_reduction="sum")
    quietly_backward(_catalogue_losses(problem, module(problem.users)).sum())
    return _clipped_samples(layer)


def with_ghost(problem: Problem) -> torch.Tensor:
    """Opacus' ghost clipping: norms without gradients of single users, then a second pass backward."""
    layer = _linear(problem)
    module = GradSampleModuleFastGradientClipping(layer, loss_reduction="sum", max_grad_norm=CLIP)
    return _ghost(module, layer, _catalogue_losses(problem, module(problem.users)))


def embedding_hooks(problem: Problem) -> torch.Tensor:
    """Opacus' stock hooks on nn.Embedding: a gradient [n_items, dim] of every interaction."""
    layer = _embedding(problem)
    module = GradSampleModule(layer, loss_reduction="sum")
    quietly_backward(_interaction_losses(problem, module(problem.histories.items.long()[:, None])).sum())
    return _clipped_samples(layer)


def embedding_ghost(problem: Problem) -> torch.Tensor:
    """Opacus' ghost clipping on nn.Embedding."""
    layer = _embedding(problem)
    module = GradSampleModuleFastGradientClipping(layer, loss_reduction="sum", max_grad_norm=CLIP)
    return _ghost(module, layer, _interaction_losses(problem, module(problem.histories.items.long()[:, None])))


def _linear(problem: Problem) -> torch.nn.Module:
    layer = torch.nn.Linear(problem.vectors.shape[1], len(problem.vectors), bias=False)
    with torch.no_grad():
        layer.weight.copy_(problem.vectors)
    return layer


def _embedding(problem: Problem) -> torch.nn.Module:
    layer = torch.nn.Embedding(*problem.vectors.shape)
    with torch.no_grad():
        layer.weight.copy_(problem.vectors)
    return layer


def _catalogue_losses(problem: Problem, scores: torch.Tensor) -> torch.Tensor:
    """The loss of every user, [n_users]."""
    histories = problem.histories
    misses = (1 - scores[histories.users, histories.items.long()]).square()
    observed = torch.zeros(len(problem.users)).index_add(0, histories.users, misses)
    return (observed + UNOBSERVED_WEIGHT * scores.square().sum(1)) / 2


def _interaction_losses(problem: Problem, rows: torch.Tensor) -> torch.Tensor:
    """The loss of every user's one interaction, [n_users], from v_i [n_users, 1, dim]."""
    return (1 - (rows[:, 0] * problem.users).sum(1)).square() / 2


def _clipped_samples(layer: torch.nn.Module) -> torch.Tensor:
    gradients: torch.Tensor = layer.weight.grad_sample  # type: ignore[assignment, union-attr]
    factors = clip_factors(gradients.flatten(1).norm(dim=1).double(), l2_clip_norm=CLIP).float()
    return torch.einsum("u,uij->ij", factors, gradients)


def _ghost(
    module: GradSampleModuleFastGradientClipping, layer: torch.nn.Module, losses: torch.Tensor
) -> torch.Tensor:
    """The two passes of Opacus' DPLossFastGradientClipping."""
    quietly_backward(losses.sum(), retain_graph=True)
    factors = module.get_clipping_coef()
    module.zero_grad()
    module.disable_hooks()
    quietly_backward((factors * losses).sum())
    gradient: torch.Tensor = layer.weight.grad  # type: ignore[assignment]
    return gradient


def quietly_backward(loss: torch.Tensor, *, retain_graph: bool = False) -> None:
    """Backwards, without torch's word that hooks see no inputs with gradients, as those of a first layer do not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]
