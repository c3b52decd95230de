"""Signals of a silo's histories from its interactions, and how much of the order rests on the source alone."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import MISSING_TIME, Interactions
from recsys_fed.errors import DataError
from recsys_fed.models.signals import Signal, Signals

Rows = npt.NDArray[np.int64]


def signals_of(
    matrix: sparse.csr_matrix,
    interactions: Interactions,
    catalogue: Catalogue,
    *,
    reads: frozenset[Signal],
    users: Rows | None = None,
) -> Signals | None:
    """The signals of a matrix of histories that was made of these interactions, or of some of them.

    Args:
        matrix: csr [n_users, n_items] over the catalogue, sorted indices; an entry is an interaction.
        interactions: all that the entries stand for, and perhaps others.
        catalogue: the columns.
        reads: which signals; for none, and where the interactions have none of them, there is no work and None.
        users: users of the matrix's rows, each once, int64 [n_users]; all users in turn without it.

    Returns:
        Columns beside the entries of the matrix; ranks are among a user's entries.

    Raises:
        DataError: an entry is none of the interactions, or a user has an item twice.
    """
    there = _there(interactions, reads)
    if not there:
        return None
    row_of = np.full(interactions.n_users, -1, dtype=np.int64)
    rows = np.arange(interactions.n_users) if users is None else users
    row_of[rows] = np.arange(len(rows))
    source = _sources(matrix, row_of[interactions.user], catalogue.rows(interactions.item_ids)[interactions.item])
    columns: dict[str, torch.Tensor] = {}
    if "order" in there and interactions.time is not None:
        columns["rank"] = torch.from_numpy(_ranks(matrix, source, interactions.time[source]))
    for name, column in (("time", interactions.time), ("value", interactions.value), ("weight", interactions.weight)):
        if name in there and column is not None:
            columns[name] = torch.from_numpy(column[source])
    return Signals(**columns)


def ties_of(interactions: Interactions) -> int | None:
    """How many pairs of neighbours in a user's order have one time, so that the source orders them; None: no times.

    What has no time is in no pair. A count of the silo, for its own report: it is never sent.
    """
    if interactions.time is None:
        return None
    timed = interactions.time != MISSING_TIME
    user, time = interactions.user[timed], interactions.time[timed]
    order = np.lexsort((time, user))
    user, time = user[order], time[order]
    return int(np.count_nonzero((user[1:] == user[:-1]) & (time[1:] == time[:-1])))


def _there(interactions: Interactions, reads: frozenset[Signal]) -> frozenset[Signal]:
    """What is read, and has a column."""
    has: dict[Signal, bool] = {
        "order": interactions.time is not None,
        "time": interactions.time is not None and interactions.clock,
        "value": interactions.value is not None,
        "weight": interactions.weight is not None,
    }
    return frozenset(name for name in reads if has[name])


def _sources(matrix: sparse.csr_matrix, row: Rows, column: Rows) -> Rows:
    """Which interaction each entry of the matrix is, int64 [nnz]; `row` and `column` [n] are theirs, -1 for none."""
    within = np.flatnonzero((row >= 0) & (column >= 0))
    # A counting sort; repeated pairs would be added up.
    placed = sparse.csr_matrix((within, (row[within], column[within])), shape=matrix.shape)
    placed.sort_indices()
    there, wanted = _cells(placed), _cells(matrix)
    place = np.searchsorted(there, wanted)
    if placed.nnz < len(within) or not np.array_equal(np.append(there, -1)[place], wanted):
        raise DataError(f"Expected a user and an item together once, as in the {matrix.nnz} entries, got others.")
    return np.asarray(placed.data[place], dtype=np.int64)


def _cells(matrix: sparse.csr_matrix) -> Rows:
    """The number of each entry's cell, row by row, int64 [nnz]; ascending, since indices are sorted."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return np.asarray(rows * matrix.shape[1] + matrix.indices)


def _ranks(matrix: sparse.csr_matrix, source: Rows, time: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Place of each entry in its user's order, int32 [nnz], from the entries' interactions and times."""
    n_users, sizes = matrix.shape[0], np.diff(matrix.indptr)
    in_source = np.argsort(source)
    # Stable: of equal times the one that is later in the source is later.
    by_time = in_source[np.argsort(time[in_source], kind="stable")]
    owner = np.repeat(np.arange(n_users), sizes)[by_time]
    # A counting sort by user, as stable.
    by_user = sparse.csr_matrix((by_time, owner, np.array([0, len(owner)])), shape=(1, n_users)).tocsc().data
    ranks = np.empty(len(time), dtype=np.int32)
    ranks[by_user] = np.arange(len(time)) - np.repeat(matrix.indptr[:-1], sizes)
    return ranks
