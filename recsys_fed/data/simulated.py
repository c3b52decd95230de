"""A federation out of one data set, for simulations: split into train and test, users spread over silos."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import SimulationConfig, columns_of, kinds_of
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.locate import open_dataset
from recsys_fed.data.partition import partition
from recsys_fed.data.protocols import apply_protocol
from recsys_fed.data.readers.reading import text_format_of
from recsys_fed.data.silo import histories, signals_of
from recsys_fed.data.split import drop_lower_values, parts_of, shuffle_order
from recsys_fed.models.histories import NOTHING, Histories, Signal, histories_of
from recsys_fed.models.stored_histories import HistoryWriter, StoredHistories, stored_histories

_TIMES: frozenset[Signal] = frozenset({"order", "time"})
# Purposes of the seed, apart from those of trainer and noise.
_SPLIT, _PARTITION, _SHUFFLE = 11, 12, 13
# Folders of silos on disk; they live as long as the process.
_folders: list[TemporaryDirectory[str]] = []


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedFederation:
    """What a simulator may see and no party of a real federation ever does.

    Attributes:
        dataset: the whole data set.
        catalogue: the items of the federation; rows of every item table.
        unknown_items: interactions of each silo with items that the catalogue lacks; they are left out.
        train, test: csr [n_users, n_items], the same rows.
        users_of_silo: rows of each silo's users.
        unranked: csr like `train`, what is neither trained on nor a candidate; None for nothing.
        users: which users of the data set the rows are, int64 [n_users]; None: all of them.
        negatives: rows of the catalogue that a source publishes for the sampled protocol, int64 [n_users, n]; None
            where it has none, or where others than the test items are held out.
    """

    dataset: Dataset
    catalogue: Catalogue
    unknown_items: list[int]
    train: sparse.csr_matrix
    test: sparse.csr_matrix
    users_of_silo: list[npt.NDArray[np.int64]]
    unranked: sparse.csr_matrix | None = None
    users: npt.NDArray[np.int64] | None = None
    negatives: npt.NDArray[np.int64] | None = None

    @property
    def excluded(self) -> sparse.csr_matrix:
        """What is no candidate for a user: the train items, and those that are unranked; csr [n_users, n_items]."""
        return self.train if self.unranked is None else self.train + self.unranked

    @cached_property
    def histories(self) -> Histories:
        """The train histories of all rows, with order and times where the data set has them."""
        signals = signals_of(self.train, self.dataset.interactions, self.catalogue, reads=_TIMES, users=self.users)
        return histories_of(self.train, signals=signals)


def simulated_federation(config: SimulationConfig, *, silos: int, seed: int) -> SimulatedFederation:
    """Read, split and spread a data set; the same arguments give the same federation in every process.

    A data seed of the configuration counts in the place of `seed`.

    Raises:
        DataError, ConfigurationError: see `open_dataset`, `split` and `partition`.
    """
    seed = seed if config.data_seed < 0 else config.data_seed
    # Without what changes no interaction, so that runs which differ in it alone read their data once.
    read = replace(
        apply_protocol(config), protocol="", ledgers="", epsilon_limit=0.0, block_interactions=0, data_seed=-1
    )
    return _federation(read, silos=silos, seed=seed)


@lru_cache(maxsize=4)
def _federation(config: SimulationConfig, *, silos: int, seed: int) -> SimulatedFederation:
    dataset = drop_lower_values(
        open_dataset(
            config.data or None,
            columns=columns_of(config.columns),
            kinds=kinds_of(config.kinds),
            form=text_format_of(config.format),
        ),
        config.min_value,
    )
    parts = parts_of(dataset, config, rng=np.random.default_rng([seed, _SPLIT]))
    if config.shuffle_order:
        rng = np.random.default_rng([seed, _SHUFFLE])
        dataset = replace(dataset, interactions=shuffle_order(dataset.interactions, parts.train, rng=rng))
    catalogue = Catalogue.load(config.item_catalogue) if config.item_catalogue else dataset.catalogue
    matrix = partial(histories, dataset.interactions, catalogue)
    train, test = matrix(parts.train), matrix(parts.held_out)
    users = partition(
        train,
        n_silos=silos,
        rng=np.random.default_rng([seed, _PARTITION]),
        method=config.partition,
        catalogue=catalogue,
        exponent=config.skew,
        alpha=config.skew,
    )
    interactions = dataset.interactions
    unknown = catalogue.rows(interactions.item_ids)[interactions.item] < 0
    unknown_of_user = np.bincount(interactions.user[unknown], minlength=interactions.n_users)
    return SimulatedFederation(
        dataset=dataset,
        catalogue=catalogue,
        unknown_items=[int(unknown_of_user[rows].sum()) for rows in users],
        train=train,
        test=test,
        users_of_silo=users,
        unranked=matrix(parts.unranked) if parts.unranked.any() else None,
        negatives=_negatives(dataset, catalogue) if config.held_out == "test" else None,
    )


def _negatives(dataset: Dataset, catalogue: Catalogue) -> npt.NDArray[np.int64] | None:
    """The source's negatives as rows of the catalogue; -1 for those that it lacks."""
    if dataset.test_negatives is None:
        return None
    rows = np.append(catalogue.rows(dataset.interactions.item_ids), -1)
    return np.asarray(rows[dataset.test_negatives], dtype=np.int64)


def silo_histories(
    federation: SimulatedFederation,
    index: int,
    *,
    device: torch.device | str = "cpu",
    block_interactions: int = 0,
    reads: frozenset[Signal] = NOTHING,
) -> Histories | StoredHistories:
    """The train histories of one silo; those with more than `block_interactions` (0: none) are read from disk.

    They carry those signals that the trainer `reads` and the data set has.
    """
    users = federation.users_of_silo[index]
    matrix = federation.train[users]
    signals = signals_of(matrix, federation.dataset.interactions, federation.catalogue, reads=reads, users=users)
    if not 0 < block_interactions < matrix.nnz:
        return histories_of(matrix, signals=signals, device=device)
    _folders.append(TemporaryDirectory(prefix="recsys-fed-silo-"))
    folder = Path(_folders[-1].name)
    with HistoryWriter(folder) as writer:
        writer.append(matrix, signals)
    return stored_histories(folder, n_items=matrix.shape[1], device=device)
