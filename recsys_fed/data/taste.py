"""Taste groups of items and users: what the taste-skewed partition of a simulation is made from."""

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

from recsys_fed.catalogue.items import Catalogue

_DIRECTIONS = 4

Groups = npt.NDArray[np.int64]


def item_groups(histories: sparse.csr_matrix, catalogue: Catalogue | None, *, rng: np.random.Generator) -> Groups:
    """A group for each item, int64 [n_items]: its first category, or without them its main direction.

    Directions are the right singular vectors, scaled by their singular values, of the users' shares less
    the average share (which is popularity); each direction has two groups, one a sign.
    """
    if catalogue is not None and catalogue.categories is not None:
        first = [entry[0] if entry else "" for entry in catalogue.categories]
        return np.unique(np.array(first, dtype=object), return_inverse=True)[1].astype(np.int64)
    rank = min(_DIRECTIONS, *(size - 1 for size in histories.shape))
    if rank < 1:
        return np.zeros(histories.shape[1], dtype=np.int64)
    start = rng.standard_normal(min(histories.shape))
    _, scale, directions = svds(_centred_shares(histories), k=rank, v0=start)
    tastes = scale[:, None] * directions
    strongest = np.argmax(np.abs(tastes), axis=0)
    negative = tastes[strongest, np.arange(tastes.shape[1])] < 0
    return np.asarray(2 * strongest + negative, dtype=np.int64)


def _centred_shares(histories: sparse.csr_matrix) -> LinearOperator:
    """S - 1 m^T with S = histories / row sums and m the mean row of S, without a dense matrix."""
    totals = np.maximum(np.asarray(histories.sum(axis=1), dtype=np.float64).ravel(), 1.0)
    shares = sparse.diags_array(1.0 / totals) @ histories.astype(np.float64)
    mean = np.asarray(shares.mean(axis=0)).ravel()
    return LinearOperator(
        shares.shape,
        matvec=lambda x: shares @ x.ravel() - mean @ x.ravel(),
        rmatvec=lambda y: shares.T @ y.ravel() - mean * y.sum(),
        dtype=np.float64,
    )


def user_groups(histories: sparse.csr_matrix, groups: Groups) -> Groups:
    """The item group that each user favours most beyond its general share, int64 [n_users].

    With c[u, g] interactions of user u in group g, that is the argmax over g of
    c[u, g] / c[u, .] - c[., g] / c[., .]; a user without interactions is in group 0.
    """
    membership = sparse.csr_matrix(
        (np.ones(len(groups)), (np.arange(len(groups)), groups)), shape=(len(groups), int(groups.max()) + 1)
    )
    counts = (histories @ membership).toarray()
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    general = counts.sum(axis=0) / max(counts.sum(), 1.0)
    favourite = np.argmax(share - general, axis=1)
    return np.asarray(np.where(totals[:, 0] > 0, favourite, 0), dtype=np.int64)
