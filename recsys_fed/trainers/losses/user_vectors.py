"""The vectors of a batch's users: folded in from the rows that the batch reads."""

import torch

from recsys_fed.models.items import FoldIn
from recsys_fed.models.ridge import ridge
from recsys_fed.models.users import fold_in
from recsys_fed.trainers.losses.loss import Batch


def user_vectors(batch: Batch, *, how: FoldIn) -> torch.Tensor:
    """u of every user, [n_users, dim]; a row depends on that user's history and on released tables alone."""
    weights = torch.ones(len(batch.vectors), dtype=batch.vectors.dtype, device=batch.vectors.device)
    if how.kind == "ridge":
        return ridge(batch.vectors, batch.histories, weights, gramian=batch.gramian, how=how)
    return fold_in(batch.vectors, batch.histories, weights, how=how)
