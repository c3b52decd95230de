"""A federation out of one data set, for simulations: split into train and test, users spread over silos."""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import SimulationConfig, columns_of
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.locate import open_dataset
from recsys_fed.data.partition import partition
from recsys_fed.data.silo import histories
from recsys_fed.data.split import split
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.models.stored_histories import HistoryWriter, StoredHistories, stored_histories

# Purposes of the seed, apart from those of trainer and noise.
_SPLIT, _PARTITION = 11, 12
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
    """

    dataset: Dataset
    catalogue: Catalogue
    unknown_items: list[int]
    train: sparse.csr_matrix
    test: sparse.csr_matrix
    users_of_silo: list[npt.NDArray[np.int64]]


def simulated_federation(config: SimulationConfig, *, silos: int, seed: int) -> SimulatedFederation:
    """Read, split and spread a data set; the same arguments give the same federation in every process.

    A data seed of the configuration counts in the place of `seed`.

    Raises:
        DataError, ConfigurationError: see `open_dataset`, `split` and `partition`.
    """
    return _federation(config, silos=silos, seed=seed if config.data_seed < 0 else config.data_seed)


@lru_cache(maxsize=4)
def _federation(config: SimulationConfig, *, silos: int, seed: int) -> SimulatedFederation:
    dataset = open_dataset(config.data or None, columns=columns_of(config.columns))
    is_test = split(
        dataset,
        rng=np.random.default_rng([seed, _SPLIT]),
        method=config.split,
        test_fraction=config.test_fraction,
    )
    catalogue = Catalogue.load(config.item_catalogue) if config.item_catalogue else dataset.catalogue
    min_value = None if np.isneginf(config.min_value) else config.min_value
    matrix = partial(histories, dataset.interactions, catalogue, min_value=min_value)
    train, test = matrix(~is_test), matrix(is_test)
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
    )


def silo_histories(
    federation: SimulatedFederation, index: int, *, device: torch.device | str = "cpu", block_interactions: int = 0
) -> Histories | StoredHistories:
    """The train histories of one silo; those with more than `block_interactions` (0: none) are read from disk."""
    matrix = federation.train[federation.users_of_silo[index]]
    if not 0 < block_interactions < matrix.nnz:
        return histories_of(matrix, device=device)
    _folders.append(TemporaryDirectory(prefix="recsys-fed-silo-"))
    folder = Path(_folders[-1].name)
    with HistoryWriter(folder) as writer:
        writer.append(matrix)
    return stored_histories(folder, n_items=matrix.shape[1], device=device)
