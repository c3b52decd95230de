"""Baselines of the next item, each a function from train histories in order to a scorer of their users.

They read the raw interactions and are NOT private, as those of `baselines`. A further one is one function and one
line in `SEQUENTIAL_BASELINES`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import sparse

from recsys_fed.evaluation.protocol import Scorer
from recsys_fed.models.histories import Histories
from recsys_fed.models.self_attention import AttentionSettings, attention_scores, fit_self_attention
from recsys_fed.models.transitions import Following, decayed_matrix, fit_transitions

_MARKOV = Following(window=0.0, recency=0.0)


def follow(train: Histories, *, how: Following) -> Scorer:
    """Score by what followed the items of a user's history, the newest most; see `models.transitions`."""
    model = fit_transitions(train, how)

    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(model.scores(train.block(*rows.indices(train.n_users)[:2])))

    return score


def session_knn(train: Histories, *, neighbours: int = 100, half_life: float = 5.0) -> Scorer:
    """V-SKNN (Ludewig and Jannach, arXiv 1803.09587): what users have who share a user's newest items.

    similarity_uv = sum over items i that both have of 2^(-age_u(i) / half_life) / sqrt(n_v)
    score_j = sum over the most similar users v who have j of similarity_uv
    """
    recent, known = decayed_matrix(train, half_life=half_life), train.matrix()
    lengths = sparse.diags(np.maximum(np.diff(known.indptr), 1) ** -0.5)
    scaled = sparse.csr_matrix(lengths @ known).T.tocsr()

    def score(rows: slice) -> torch.Tensor:
        first, last, _ = rows.indices(train.n_users)
        similar = torch.from_numpy((recent[rows] @ scaled).toarray())
        similar[torch.arange(last - first), torch.arange(first, last)] = 0.0
        values, nearest = similar.topk(min(neighbours, train.n_users), dim=1)
        places = np.repeat(np.arange(last - first), nearest.shape[1]), nearest.flatten().numpy()
        chosen = sparse.csr_matrix((values.flatten().numpy(), places), shape=tuple(similar.shape))
        return torch.from_numpy((chosen @ known).toarray())

    return score


def sasrec(train: Histories, *, settings: AttentionSettings | None = None) -> Scorer:
    """Self-attention on the newest items; see `models.self_attention`."""
    model = fit_self_attention(train, settings)

    def score(rows: slice) -> torch.Tensor:
        return attention_scores(model, train.block(*rows.indices(train.n_users)[:2]))

    return score


SEQUENTIAL_BASELINES: dict[str, Callable[[Histories], Scorer]] = {
    "markov": partial(follow, how=_MARKOV),
    "transitions": partial(follow, how=Following()),
    "symmetric transitions": partial(follow, how=Following(directed=False)),
    "session-knn": session_knn,
    "sasrec": sasrec,
}
"""Name -> function of the train histories that returns a scorer. Defaults fit MovieLens-1M."""
