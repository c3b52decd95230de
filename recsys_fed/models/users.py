"""User vectors: closed-form fold-in from a history. They are private and never leave a silo."""

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.ridge import gramian_of, ridge


def user_vectors(model: ItemEmbeddings, histories: Histories) -> torch.Tensor:
    """Fold in every user of `histories`: [n_users, embedding_dim] float32 on the model's device.

    Guarantees: row u depends on the model and on the history of user u alone, so serving from a released
    model costs no further privacy. A user without interactions gets the zero vector.
    """
    return fold_in(model.vectors, histories, model.history_weights, how=model.fold_in)


def fold_in(vectors: torch.Tensor, histories: Histories, weights: torch.Tensor, *, how: FoldIn) -> torch.Tensor:
    """User vectors [n_users, embedding_dim] from item vectors [n_items, embedding_dim], weights [n_items]."""
    if how.kind == "ridge":
        return ridge(vectors, histories, weights, gramian=gramian_of(vectors), how=how)
    per_interaction = weights[histories.items]
    # h_u = sum_{i in H(u)} w_i v_i
    projected = histories.times(per_interaction, vectors)
    norms = histories.per_user(per_interaction.square()).sqrt()
    return projected / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]


def scores(model: ItemEmbeddings, users: torch.Tensor) -> torch.Tensor:
    """Scores [n_users, n_items] of all items for user vectors [n_users, embedding_dim]."""
    return torch.addmm(model.bias, users, model.vectors.T)
