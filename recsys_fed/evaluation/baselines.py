"""Baselines that a model must beat, each a function from the train matrix to a scorer of its users.

They read the raw interactions and are NOT private: they are references for simulations, or what a silo could do
alone, and are never released. A further baseline is one function and one line in `BASELINES`; the suite in
tests/evaluation/test_baseline_conformance.py then holds for it.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TypeAlias

import numpy as np
import torch
from scipy import linalg, sparse
from scipy.sparse import csr_array, csr_matrix
from scipy.sparse.linalg import svds

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.protocol import Scorer

_Train: TypeAlias = csr_matrix | csr_array


def pattern_of(train: _Train) -> sparse.csr_matrix:
    """A copy [n_users, n_items], float64, with ones where `train` has entries other than zero; the argument stays."""
    pattern = sparse.csr_matrix(train, dtype=np.float64, copy=True)
    pattern.sum_duplicates()
    pattern.eliminate_zeros()
    pattern.data[:] = 1.0
    return pattern


def popularity(train: _Train) -> Scorer:
    """Score every item by its number of train users, the same for everybody.

    Args:
        train: sparse [n_users, n_items]; each stored entry is one interaction, whatever its value.

    Returns:
        A scorer [n_block, n_items], float32; the counts are exact up to 2**24 users.
    """
    n_users, n_items = train.shape
    counts = np.bincount(train.indices, minlength=n_items)
    scores = torch.from_numpy(counts.astype(np.float32))

    def score(rows: slice) -> torch.Tensor:
        return scores.expand(len(range(n_users)[rows]), n_items)

    return score


def item_knn(train: _Train, *, neighbours: int = 50) -> Scorer:
    """An item scores by its similarity to the items of the user, by the library `implicit`.

    scores = X S with S [n_items, n_items] the k most similar items of each item, by cosine.
    """
    pattern = pattern_of(train)
    return _product_scorer(pattern, _cosine_similarity(pattern, neighbours))


def user_knn(train: _Train, *, neighbours: int = 300) -> Scorer:
    """An item scores by the similar users who have it, by the library `implicit`.

    scores = S X with S [n_users, n_users] the k most similar users of each user, by cosine.
    """
    pattern = pattern_of(train)
    return _product_scorer(_cosine_similarity(pattern.T.tocsr(), neighbours).T.tocsr(), pattern)


def _product_scorer(left: sparse.csr_matrix, right: sparse.csr_matrix) -> Scorer:
    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(np.asarray((left[rows] @ right).toarray()))

    return score


def _cosine_similarity(columns: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """Cosine similarity of columns [n, n]; in column j the most similar ones of j, itself included."""
    model = _implicit_module("nearest_neighbours").CosineRecommender(K=neighbours + 1, num_threads=1)
    # It normalises and multiplies in COO form, which the library itself warns about.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(columns, show_progress=False)
    return sparse.csr_matrix(model.similarity)


def pure_svd(train: _Train, *, embedding_dim: int = 32, seed: int = 0) -> Scorer:
    """PureSVD (Cremonesi, Koren and Turrin 2010, doi 10.1145/1864708.1864721): scores = X V V^T.

    V holds the leading right singular vectors of the train pattern; fewer where the matrix has fewer.
    """
    pattern = pattern_of(train)
    most = min(pattern.shape) - 1
    if most < 1:
        right = np.ones((1, pattern.shape[1])) / np.sqrt(pattern.shape[1])
    else:
        rng = np.random.default_rng(seed)
        right = svds(pattern, k=min(embedding_dim, most), rng=rng, return_singular_vectors="vh")[2]

    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(np.asarray(pattern[rows] @ right.T) @ right)

    return score


def implicit_als(
    train: _Train,
    *,
    embedding_dim: int = 64,
    alpha: float = 6.0,
    regularization: float = 60.0,
    iterations: int = 16,
    seed: int = 0,
) -> Scorer:
    """Implicit ALS (Hu, Koren and Volinsky 2008, doi 10.1109/ICDM.2008.22), by the library `implicit`.

    minimise  sum_{(u,i)} c_ui (p_ui - x_u y_i)^2 + regularization (||X||^2 + ||Y||^2),   c = alpha on entries, else 1

    Well tuned it is hard to beat (Rendle et al., arXiv 2110.14037). One thread trains, so that the seed decides the
    result.
    """
    pattern = pattern_of(train).astype("float32")
    model = _implicit_module("als").AlternatingLeastSquares(
        factors=embedding_dim, alpha=alpha, regularization=regularization, iterations=iterations,
        random_state=seed, num_threads=1, use_gpu=False,
    )  # fmt: skip
    model.fit(pattern, show_progress=False)
    users, items = torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors)

    def score(rows: slice) -> torch.Tensor:
        return users[rows] @ items.T

    return score


_INITIAL_STD = 0.05


def bpr_mf(
    train: _Train,
    *,
    embedding_dim: int = 64,
    epochs: int = 15,
    learning_rate: float = 0.01,
    regularization: float = 0.003,
    batch_size: int = 8192,
    seed: int = 0,
) -> Scorer:
    """BPR-MF (Rendle et al., arXiv 1205.2618): factors that rank a user's items above uniformly drawn ones.

    minimise  -sum ln sigmoid(s_ui - s_uj) + regularization (||p_u||^2 + ||q_i||^2 + ||q_j||^2),  s_ui = p_u q_i + b_i

    by Adam; j is any item of the catalogue, so now and then one that the user has. `implicit` draws j by popularity,
    which ranks popular items low under full ranking, so this is written here.
    """
    pattern = pattern_of(train).tocoo()
    users, items = (torch.from_numpy(index).long() for index in (pattern.row, pattern.col))
    n_users, n_items = pattern.shape
    rng = torch.Generator().manual_seed(seed)
    of_user = _INITIAL_STD * torch.randn(n_users, embedding_dim, generator=rng)
    of_item = _INITIAL_STD * torch.randn(n_items, embedding_dim, generator=rng)
    parameters = [table.requires_grad_() for table in (of_user, of_item, torch.zeros(n_items))]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(users), generator=rng).split(batch_size):  # type: ignore[no-untyped-call]
            drawn = torch.randint(n_items, (len(batch),), generator=rng)
            optimizer.zero_grad()
            loss = _bpr_loss(parameters, (users[batch], items[batch], drawn), regularization=regularization)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    p, q, bias = (table.detach() for table in parameters)

    def score(rows: slice) -> torch.Tensor:
        return p[rows] @ q.T + bias

    return score


def _bpr_loss(
    parameters: list[torch.Tensor],
    triples: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    regularization: float,
) -> torch.Tensor:
    (p, q, bias), (users, items, drawn) = parameters, triples
    of_user, of_item, of_drawn = p[users], q[items], q[drawn]
    margin = (of_user * (of_item - of_drawn)).sum(1) + bias[items] - bias[drawn]
    size = of_user.square().sum() + of_item.square().sum() + of_drawn.square().sum()
    loss: torch.Tensor = (regularization * size - torch.nn.functional.logsigmoid(margin).sum()) / len(users)
    return loss


def ease(train: _Train, *, regularization: float = 500.0) -> Scorer:
    """EASE (Steck, arXiv 1905.03375): a linear model between items, fitted in closed form on all users at once.

    P = (X^T X + regularization I)^-1,    B_ij = -P_ij / P_jj off the diagonal, 0 on it,    scores = X B

    Memory grows with the square of the catalogue.
    """
    pattern = pattern_of(train)
    gramian = (pattern.T @ pattern).toarray()
    gramian[np.diag_indices_from(gramian)] += regularization
    inverse = linalg.inv(gramian, overwrite_a=True)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)

    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(np.asarray(pattern[rows] @ weights))

    return score


def _implicit_module(name: str) -> ModuleType:
    """A module of `implicit`, such as "als".

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # It recommends environment variables for its threads when it is imported.
            warnings.simplefilter("ignore")
            return import_module(f"implicit.{name}")
    except ImportError as error:
        raise ConfigurationError(
            "The library implicit, which this baseline needs, is not installed. "
            'Run pip install "recsys-fed[baselines]".'
        ) from error


BASELINES: dict[str, Callable[[_Train], Scorer]] = {
    "popularity": popularity,
    "item-knn": item_knn,
    "user-knn": user_knn,
    "pure-svd": pure_svd,
    "implicit-als": implicit_als,
    "bpr-mf": bpr_mf,
    "ease": ease,
}
"""Name -> function of the train matrix that returns a scorer. Defaults fit MovieLens-1M."""
