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
        DataError: an entry is none of the interactions, or several.
    """
    there = _there(interactions, reads)
    if not there:
        return None
    row_of = np.full(interactions.n_users, -1, dtype=np.int64)
    rows = np.arange(interactions.n_users) if users is None else users
    row_of[rows] = np.arange(len(rows))
    source, place = _placed(
        matrix, row_of[interactions.user], catalogue.rows(interactions.item_ids)[interactions.item]
    )
    columns: dict[str, torch.Tensor] = {}
    if "order" in there and interactions.time is not None:
        columns["rank"] = torch.from_numpy(_ranks(matrix, place, interactions.time[source]))
    for name, column in (("time", interactions.time), ("value", interactions.value), ("weight", interactions.weight)):
        if name in there and column is not None:
            beside = np.empty_like(column, shape=len(place))
            beside[place] = column[source]
            columns[name] = torch.from_numpy(beside)
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


def _placed(matrix: sparse.csr_matrix, row: Rows, column: Rows) -> tuple[Rows, Rows]:
    """Which interactions are entries of the matrix, in the order of the source, and which entries they are.

    `row` and `column` [n] are theirs; -1 for none.
    """
    entry_rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    # Ascending, since rows are and the indices of each row are.
    entries = entry_rows * matrix.shape[1] + matrix.indices
    source = np.flatnonzero((row >= 0) & (column >= 0))
    sought = row[source] * matrix.shape[1] + column[source]
    place = np.searchsorted(entries, sought)
    found = np.append(entries, -1)[place] == sought
    source, place = source[found], place[found]
    if len(place) != matrix.nnz or (np.bincount(place, minlength=matrix.nnz) != 1).any():
        raise DataError(f"Expected each of {matrix.nnz} user and item once in the interactions, got {len(place)}.")
    return source, place


def _ranks(matrix: sparse.csr_matrix, place: Rows, time: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Place of each entry in its user's order, int32 [nnz]; `place` and `time` are in the order of the source."""
    starts = matrix.indptr.astype(np.int64)
    owner = np.searchsorted(starts, place, side="right") - 1
    # Stable: of equal times the one that is later in the source is later.
    order = np.lexsort((time, owner))
    ranks = np.empty(len(place), dtype=np.int32)
    ranks[place[order]] = np.arange(len(place)) - np.repeat(starts[:-1], np.diff(starts))
    return ranks
