"""User vectors: closed-form fold-in from a history. They are private and never leave a silo."""

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn, ItemEmbeddings

# Bounds what is held at once, in floats: normal equations [users, dim, dim] and products [n_items, columns].
_BLOCK_FLOATS = 1 << 25


def user_vectors(model: ItemEmbeddings, histories: Histories) -> torch.Tensor:
    """Fold in every user of `histories`: [n_users, embedding_dim] float32 on the model's device.

    Guarantees: row u depends on the model and on the history of user u alone, so serving from a released
    model costs no further privacy. A user without interactions gets the zero vector.
    """
    return fold_in(model.vectors, histories, model.history_weights, how=model.fold_in)


def fold_in(vectors: torch.Tensor, histories: Histories, weights: torch.Tensor, *, how: FoldIn) -> torch.Tensor:
    """User vectors [n_users, embedding_dim] from item vectors [n_items, embedding_dim], weights [n_items]."""
    per_interaction = weights[histories.items]
    # h_u = sum_{i in H(u)} w_i v_i
    projected = histories.times(per_interaction, vectors)
    if how.kind == "projection":
        norms = histories.per_user(per_interaction.square()).sqrt()
        return projected / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]
    return _ridge(vectors, histories, projected, per_interaction=per_interaction, how=how)


def _ridge(
    vectors: torch.Tensor,
    histories: Histories,
    projected: torch.Tensor,
    *,
    per_interaction: torch.Tensor,
    how: FoldIn,
) -> torch.Tensor:
    """Solve (sum_H w_i v_i v_i^T + unobserved_weight V^T V + regularization I) u = h_u for every user."""
    dim = vectors.shape[1]
    identity = torch.eye(dim, dtype=vectors.dtype, device=vectors.device)
    # In float64: how the sum over items is split over threads is then lost in the rounding to float32.
    gramian = (vectors.double().T @ vectors.double()).to(vectors.dtype)
    shared = how.unobserved_weight * gramian + how.regularization * identity
    block = max(1, _BLOCK_FLOATS // dim**2)
    solved = []
    for start in range(0, histories.n_users, block):
        part = histories.block(start, min(start + block, histories.n_users))
        first = int(histories.starts[start])
        values = per_interaction[first : first + len(part.items)]
        normal = _outer_products(vectors, part, values) + shared
        # solve_ex does not raise: whether a user's equations overflow must not decide whether a silo answers.
        solved.append(torch.linalg.solve_ex(normal, projected[start : start + part.n_users]).result)
    return torch.cat(solved) if solved else projected


def _outer_products(vectors: torch.Tensor, histories: Histories, values: torch.Tensor) -> torch.Tensor:
    """sum_{i in H} value_i v_i v_i^T of every user, [n_users, dim, dim], in few sparse products."""
    n_items, dim = vectors.shape
    rows = max(1, _BLOCK_FLOATS // (n_items * dim))
    parts = [
        histories.times(values, (vectors[:, k : k + rows, None] * vectors[:, None, :]).flatten(1))
        for k in range(0, dim, rows)
    ]
    return torch.cat(parts, dim=1).view(histories.n_users, dim, dim)


def scores(model: ItemEmbeddings, users: torch.Tensor) -> torch.Tensor:
    """Scores [n_users, n_items] of all items for user vectors [n_users, embedding_dim]."""
    return users @ model.vectors.T + model.bias
