"""A federation with canaries in it, written as data files that the ordinary run reads: nothing of it is special.

Items get their rows of the catalogue as ids, so that any data set can be written as the lists of `data.sources`, and
the catalogue is saved with its public columns, from which features follow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.audit.canaries import Canaries
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import SimulationConfig
from recsys_fed.data.simulated import SimulatedFederation, simulated_federation
from recsys_fed.errors import DataError

_TRAIN, _TEST, _CATALOGUE = "train.txt", "test.txt", "catalogue.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """The federation of an audited run.

    Attributes:
        name: of the data set that was taken.
        data: what a run reads.
        federation: what it finds there: ordinary users and the canaries that are in.
        canaries: all of them, also those that are not in.
        silo_of_canary: int64 [n_canaries]; where one that is out would have been, a coin's choice.
        others: rows of the ordinary users of each silo.
        withheld: csr, ordinary users who were taken out: the non-members of attacks.
    """

    name: str
    data: SimulationConfig
    federation: SimulatedFederation
    canaries: Canaries
    silo_of_canary: npt.NDArray[np.int64]
    others: tuple[npt.NDArray[np.int64], ...]
    withheld: sparse.csr_matrix


def place(
    federation: SimulatedFederation,
    data: SimulationConfig,
    canaries: Canaries,
    *,
    folder: Path,
    silos: int,
    seed: int,
    withheld: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Placed:
    """Write the users of `federation` but those `withheld`, and the canaries that are in, to `folder`.

    Guarantees: a canary is a user of its own, in one silo, with training items only; canaries that are out leave no
    trace in the files.

    Raises:
        DataError: a user of the written federation is not found again when it is read.
    """
    kept = np.setdiff1d(np.arange(federation.train.shape[0]), withheld)
    order = rng.permutation(len(kept) + int(canaries.included.sum()))
    inside = np.flatnonzero(canaries.included)
    train = sparse.vstack([federation.train[kept], canaries.histories[inside]], format="csr")[order]
    test = sparse.vstack(
        [federation.test[kept], sparse.csr_matrix((len(inside), train.shape[1]), dtype=np.float32)], format="csr"
    )[order]
    folder.mkdir(parents=True, exist_ok=True)
    _write_lists(folder / _TRAIN, train)
    _write_lists(folder / _TEST, test)
    numbered(federation.catalogue).save(folder / _CATALOGUE)
    where = replace(
        data,
        data=str(folder),
        protocol="",
        columns="",
        item_catalogue=str(folder / _CATALOGUE),
        split="given",
        held_out="test",
        min_value=-np.inf,
    )
    found = simulated_federation(where, silos=silos, seed=seed)
    position = _positions(found, len(order))
    # Line k of the files is user order[k]; canary inside[c] is user len(kept) + c.
    line_of = np.empty(len(order), dtype=np.int64)
    line_of[order] = np.arange(len(order))
    row_of_canary = np.full(len(canaries), -1)
    row_of_canary[inside] = position[line_of[len(kept) :]]
    silo = _silo_of_rows(found.users_of_silo, found.train.shape[0])
    silo_of_canary = np.where(row_of_canary >= 0, silo[row_of_canary], rng.integers(0, silos, len(canaries)))
    return Placed(
        name=federation.dataset.name,
        data=where,
        federation=found,
        canaries=canaries,
        silo_of_canary=silo_of_canary,
        others=tuple(np.setdiff1d(rows, row_of_canary[inside]) for rows in found.users_of_silo),
        withheld=federation.train[withheld],
    )


def numbered(catalogue: Catalogue) -> Catalogue:
    """The same public items with their row as their id."""
    ids = np.array([str(row) for row in range(catalogue.n_items)], dtype=object)
    return replace(catalogue, item_ids=ids)


def _write_lists(path: Path, matrix: sparse.csr_matrix) -> None:
    starts, items = matrix.indptr, matrix.indices
    lines = (f"{row} {_joined(items[starts[row] : starts[row + 1]])}\n" for row in range(matrix.shape[0]))
    path.write_text("".join(lines), encoding="ascii")


def _joined(items: Iterable[int]) -> str:
    return " ".join(str(item) for item in items)


def _positions(found: SimulatedFederation, lines: int) -> npt.NDArray[np.int64]:
    """Row of the user of every line of the files; -1 for one who has no interaction at all."""
    ids = np.array([int(name) for name in found.dataset.interactions.user_ids], dtype=np.int64)
    if len(ids) and (ids.max() >= lines or len(np.unique(ids)) != len(ids)):
        raise DataError("Expected the users of the written federation to be found again, got others.")
    position = np.full(lines, -1)
    position[ids] = np.arange(len(ids))
    return position


def _silo_of_rows(users_of_silo: Sequence[npt.NDArray[np.int64]], n_users: int) -> npt.NDArray[np.int64]:
    silo = np.full(n_users, -1)
    for index, rows in enumerate(users_of_silo):
        silo[rows] = index
    return silo
