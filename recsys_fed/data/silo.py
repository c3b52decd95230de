"""What a silo trains on: one sparse row of catalogue items a user.

The signals of its histories come from its interactions, and how much of the order rests on the source alone is
counted.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import MISSING_TIME, Interactions
from recsys_fed.errors import ConfigurationError, DataError
from recsys_fed.models.histories import NOTHING, Signal, Signals

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


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloDataset:
    """The private data of one silo in the shape that trainers read.

    Attributes:
        histories: csr float32 [n_users, n_items], 1.0 an interaction; sorted indices, no duplicates. The
            columns are the catalogue's rows. A silo without users has shape [0, n_items].
        user_ids: object array of str [n_users]; never leaves the silo.
        unknown_items: number of interactions whose item is not in the catalogue; they are left out. A
            count of a silo: for the local report only.
        signals: beside the entries of the histories, where they are read and the interactions have them.
        ties: see `ties_of`, of the interactions in the histories; None also where no order is read. For the local
            report only.
    """

    histories: sparse.csr_matrix
    user_ids: npt.NDArray[np.object_]
    unknown_items: int = 0
    signals: Signals | None = None
    ties: int | None = None

    def __post_init__(self) -> None:
        if self.histories.shape[0] != len(self.user_ids):
            raise DataError(f"Expected {self.histories.shape[0]} user ids, got {len(self.user_ids)}.")


def silo_dataset(
    interactions: Interactions,
    catalogue: Catalogue,
    mask: npt.NDArray[np.bool_] | None = None,
    *,
    min_value: float | None = None,
    reads: frozenset[Signal] = NOTHING,
) -> SiloDataset:
    """A silo's data set from its interactions; items that the catalogue lacks are counted and left out.

    Args:
        interactions: the silo's own.
        catalogue: the public items that the federation agreed on.
        mask: which interactions count, bool [len(interactions)]; all without it.
        min_value: only interactions with at least this value count; every one that does counts 1.0.
        reads: the signals that a trainer reads.

    Raises:
        ConfigurationError: `min_value` is given for interactions without values.
        DataError: the mask has another shape or type; or signals are read, and a user has an item twice.
    """
    kept = interactions if mask is None else interactions.select(mask)
    if min_value is not None:
        kept = kept.select(_at_least(kept, min_value))
    columns = catalogue.rows(kept.item_ids)[kept.item]
    known = columns >= 0
    matrix = _binary(kept.user[known], columns[known], shape=(kept.n_users, catalogue.n_items))
    unknown = int(len(known) - np.count_nonzero(known))
    return SiloDataset(
        histories=matrix,
        user_ids=kept.user_ids,
        unknown_items=unknown,
        signals=signals_of(matrix, kept, catalogue, reads=reads),
        ties=ties_of(kept.select(known)) if "order" in reads else None,
    )


def histories(
    interactions: Interactions,
    catalogue: Catalogue,
    mask: npt.NDArray[np.bool_] | None = None,
    *,
    min_value: float | None = None,
) -> sparse.csr_matrix:
    """Only the matrix of `silo_dataset`: csr float32 [n_users, n_items].

    All users keep their row whatever the mask, so that train and test matrices have the same rows.
    """
    return silo_dataset(interactions, catalogue, mask, min_value=min_value).histories


def _at_least(interactions: Interactions, min_value: float) -> npt.NDArray[np.bool_]:
    if interactions.value is None:
        raise ConfigurationError(
            f"Expected no min_value for interactions without values, got {min_value}. Leave it out, or name "
            "the column that holds the values."
        )
    return np.asarray(interactions.value >= min_value, dtype=bool)


def _binary(
    rows: npt.NDArray[np.integer], columns: npt.NDArray[np.int64], *, shape: tuple[int, int]
) -> sparse.csr_matrix:
    ones = np.ones(len(rows), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
