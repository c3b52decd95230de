"""Per-user contributions that are rank one: norms, clipping and the clipped sum without per-user matrices.

User u contributes the matrix r_u y_u^T [n_items, k] with

    r_u = s_u + D e_u        s_u sparse (on the history), D [n_items, m] shared by all users, e_u [m]

Gradients of dot-product models with the user's vector held constant have this form (r_u = dL_u/ds, y_u the
user's vector), and so have the contributions of subspace iteration. Then

    ||r_u y_u^T||_F^2  = (||s_u||^2 + 2 s_u^T D e_u + e_u^T D^T D e_u) ||y_u||^2
    sum_u c_u r_u y_u^T = S^T diag(c) Y + D (E^T diag(c) Y)

at the cost of a few products of a sparse and a thin matrix; nothing of size n_users x n_items is formed.
"""

from dataclasses import dataclass

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.privacy.clipping import clip_factors

# Square of the share of ||s_u|| and ||D e_u|| below which float32 no longer resolves their difference well.
_CANCELLATION = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class RankOneContributions:
    """The contributions r_u y_u^T of all users of a batch.

    Attributes:
        histories: where the sparse parts s_u are not zero.
        values: the entries of s_u, [n_interactions] in the order of `histories`.
        basis: D, [n_items, m].
        coefficients: e_u as rows, [n_users, m].
        right: y_u as rows, [n_users, k].
    """

    histories: Histories
    values: torch.Tensor
    basis: torch.Tensor
    coefficients: torch.Tensor
    right: torch.Tensor


def contribution_norms(batch: RankOneContributions) -> torch.Tensor:
    """Frobenius norms ||r_u y_u^T||, float64 [n_users]; equal to those of the matrices to rounding."""
    left, _ = _squares(batch)
    return (left * batch.right.double().square().sum(1)).sqrt()


def clipped_sum(batch: RankOneContributions, *, l2_clip_norm: float, mode: str = "flat") -> torch.Tensor:
    """Sum over users of the contributions, each clipped as a whole: [n_items, k], the type of `right`.

    Guarantees:
        - Unit: a user, that is all interactions of the user in the batch. Neighbouring relation: add or
          remove one user. The L2 (Frobenius) sensitivity is l2_clip_norm, whatever the tables hold.
        - A user's term depends on that user's history and on released tables only.
        - Where s_u and D e_u cancel to under a thousandth of their size, rounding is a visible part of r_u; the
          term is then bounded by the size of the parts instead, and comes out smaller, never larger.
        - A user whose contribution overflows counts for nothing. No users give the zero matrix.
    """
    left, parts = _squares(batch)
    bounds = (torch.maximum(left, _CANCELLATION * parts) * batch.right.double().square().sum(1)).sqrt()
    factors = clip_factors(bounds, l2_clip_norm=l2_clip_norm, mode=mode)
    usable = bounds.isfinite()
    # In float64 no product of float32 parts overflows, however a bounded contribution falls into its parts.
    scaled = torch.where(usable[:, None], batch.right, 0.0).double() * factors.double()[:, None]
    values = torch.where(usable[batch.histories.users], batch.values, 0.0).double()
    coefficients = torch.where(usable[:, None], batch.coefficients, 0.0).double()
    total = batch.histories.transposed_times(values, scaled) + batch.basis.double() @ (coefficients.T @ scaled)
    return total.to(batch.right.dtype)


def _squares(batch: RankOneContributions) -> tuple[torch.Tensor, torch.Tensor]:
    """||r_u||^2, and ||s_u||^2 + ||D e_u||^2, both float64 [n_users]."""
    values, basis = batch.values.double(), batch.basis.double()
    coefficients = batch.coefficients.double()
    sparse = batch.histories.per_user(values.square())
    cross = (batch.histories.times(values, basis) * coefficients).sum(1)
    dense = ((coefficients @ (basis.T @ basis)) * coefficients).sum(1).clamp_min(0)
    # The sum of the three is a square; rounding can leave it just below zero.
    return (sparse + 2 * cross + dense).clamp_min(0), sparse + dense
