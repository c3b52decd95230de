"""What a silo trains on: one sparse row of catalogue items a user."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.signals import signals_of, ties_of
from recsys_fed.errors import ConfigurationError, DataError
from recsys_fed.models.signals import NOTHING, Signal, Signals


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
