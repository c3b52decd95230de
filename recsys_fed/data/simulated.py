"""A federation out of one data set, for simulations: split into train and test, users spread over silos.

Users are spread disjointly, completely, and as unevenly as asked. A silo may come out empty, under a strong skew of
taste. An empty silo is a valid silo (an array of no users); it takes part, and its contribution is noise only. More
silos than users is a mistake, and `partition` refuses it. The partition by taste is made from taste groups of items
and users.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.checks import at_least, non_negative, one_of, positive
from recsys_fed.config import SimulationConfig, columns_of, kinds_of
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.locate import open_dataset
from recsys_fed.data.protocols import apply_protocol
from recsys_fed.data.readers.products import add_public_users
from recsys_fed.data.readers.reading import text_format_of
from recsys_fed.data.readers.users import (
    Attributes,
    UserRule,
    parse_attribute_columns,
    read_attributes,
    read_user_numbers,
)
from recsys_fed.data.silo import histories, signals_of
from recsys_fed.data.split import (
    are_hits,
    drop_lower_values,
    exchange_items,
    grown_parts,
    parts_of,
    shuffle_order,
)
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import NOTHING, Histories, Signal, histories_of
from recsys_fed.models.stored_histories import HistoryWriter, StoredHistories, stored_histories

_EVALUATED: frozenset[Signal] = frozenset({"order", "time", "value", "weight"})
_DIRECTIONS = 4

Groups = npt.NDArray[np.int64]


def _group_items(histories: sparse.csr_matrix, catalogue: Catalogue | None, *, rng: np.random.Generator) -> Groups:
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


def _group_users(histories: sparse.csr_matrix, groups: Groups) -> Groups:
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


Users = npt.NDArray[np.int64]


def equal(n_users: int, *, n_silos: int, rng: np.random.Generator) -> list[Users]:
    """Random silos whose sizes differ by one at most; with more silos than users the last are empty."""
    at_least(1, n_silos=n_silos)
    return [np.sort(part) for part in np.array_split(rng.permutation(n_users), n_silos)]


def zipf(n_users: int, *, n_silos: int, rng: np.random.Generator, exponent: float = 1.0) -> list[Users]:
    """Random silos of size proportional to rank^-exponent, largest first; if users suffice, none is empty."""
    at_least(1, n_silos=n_silos)
    non_negative(exponent=exponent)
    share = np.arange(1, n_silos + 1, dtype=np.float64) ** -exponent
    # One user to each silo while they last, the others by the law.
    bounds = np.minimum(np.arange(1, n_silos + 1), n_users)
    bounds += np.rint(np.cumsum(share / share.sum()) * max(0, n_users - n_silos)).astype(np.int64)
    return [np.sort(part) for part in np.split(rng.permutation(n_users), bounds[:-1])]


def dirichlet(
    groups: npt.NDArray[np.int64], *, n_silos: int, rng: np.random.Generator, alpha: float = 0.5
) -> list[Users]:
    """Silos of different taste: the users of each group spread by their own Dirichlet(alpha) draw.

    Hsu, Qi and Brown (arXiv 1909.06335) with groups of taste for classes. A small alpha puts a
    group into few silos; alpha to infinity gives silos of the same mixture.

    Args:
        groups: taste group of each user, int64 [n_users].
        n_silos: number of silos.
        rng: the randomness.
        alpha: concentration, above zero.
    """
    at_least(1, n_silos=n_silos)
    positive(alpha=alpha)
    silo = np.zeros(len(groups), dtype=np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        silo[members] = rng.choice(n_silos, size=len(members), p=rng.dirichlet(np.full(n_silos, alpha)))
    return [np.flatnonzero(silo == number) for number in range(n_silos)]


_Method = Callable[[sparse.csr_matrix, int, np.random.Generator, Catalogue | None, float, float], list[Users]]

METHODS: dict[str, _Method] = {
    "equal": lambda users, n, rng, _catalogue, _exponent, _alpha: equal(users.shape[0], n_silos=n, rng=rng),
    "zipf": lambda users, n, rng, _catalogue, exponent, _alpha: zipf(
        users.shape[0], n_silos=n, rng=rng, exponent=exponent
    ),
    "dirichlet": lambda users, n, rng, catalogue, _exponent, alpha: dirichlet(
        _group_users(users, _group_items(users, catalogue, rng=rng)), n_silos=n, rng=rng, alpha=alpha
    ),
}


def partition(
    histories: sparse.csr_matrix,
    *,
    n_silos: int,
    rng: np.random.Generator,
    method: str = "equal",
    catalogue: Catalogue | None = None,
    exponent: float = 1.0,
    alpha: float = 0.5,
) -> list[Users]:
    """Spread users over silos by the name of a method.

    Args:
        histories: csr [n_users, n_items]; dirichlet reads the tastes from it.
        n_silos: number of silos, at least 1 and at most one a user, whether or not the user has an interaction here.
        rng: the randomness.
        method: a name of `METHODS`.
        catalogue: its first category of each item makes the taste groups of dirichlet; without
            categories they come from the interactions.
        exponent: of zipf; 0 is even.
        alpha: of dirichlet; small is uneven.

    Returns:
        `n_silos` sorted arrays of user rows, int64; together every user exactly once; some may be empty.

    Raises:
        ConfigurationError: an unknown method, a setting out of range, or more silos than users.
    """
    one_of(METHODS, partition=method)
    n_users = histories.shape[0]
    if n_silos > max(1, n_users):
        raise ConfigurationError(
            f"Expected at most one silo a user, and the data set has {n_users:,} users; got {n_silos:,} silos. "
            f"Ask for {n_users:,} silos or fewer, or take a larger data set."
        )
    return METHODS[method](histories, n_silos, rng, catalogue, exponent, alpha)


# Purposes of the seed, apart from those of trainer and noise.
_SPLIT, _PARTITION, _SHUFFLE, _GROWTH, _TASTES = 11, 12, 13, 14, 15
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
    def user_ids(self) -> npt.NDArray[np.object_]:
        """Of the rows, object array of str [n_users]."""
        ids = self.dataset.interactions.user_ids
        return ids if self.users is None else ids[self.users]

    @property
    def excluded(self) -> sparse.csr_matrix:
        """What is no candidate for a user: the train items, and those that are unranked; csr [n_users, n_items]."""
        return self.train if self.unranked is None else self.train + self.unranked

    @cached_property
    def histories(self) -> Histories:
        """The train histories of all rows, with order, times and ratings where the data set has them."""
        return self._histories(self.train)

    @cached_property
    def test_histories(self) -> Histories:
        """What is held out of all rows, with the same signals."""
        return self._histories(self.test)

    def _histories(self, matrix: sparse.csr_matrix) -> Histories:
        interactions = self.dataset.interactions
        signals = signals_of(matrix, interactions, self.catalogue, reads=_EVALUATED, users=self.users)
        return histories_of(matrix, signals=signals)


# What rules give to users, by rule, table and column: silos ask every round.
_NUMBERS: WeakKeyDictionary[SimulatedFederation, dict[tuple[str, str, str], npt.NDArray[np.float64]]] = (
    WeakKeyDictionary()
)


def simulated_federation(config: SimulationConfig, *, silos: int, seed: int) -> SimulatedFederation:
    """Read, split and spread a data set; the same arguments give the same federation in every process.

    A data seed of the configuration counts in the place of `seed`.

    Raises:
        DataError, ConfigurationError: see `open_dataset`, `split` and `partition`.
    """
    seed = seed if config.data_seed < 0 else config.data_seed
    # Without what changes no interaction, so that runs which differ in it alone read their data once.
    read = replace(
        apply_protocol(config), protocol="", ledgers="", epsilon_limit=0.0, block_interactions=0, data_seed=-1,
        user_attributes="", attribute_columns="",
    )  # fmt: skip
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
    if config.changed_tastes:
        rng = np.random.default_rng([seed, _TASTES])
        changed = exchange_items(dataset.interactions, share=config.changed_tastes, rng=rng)
        dataset = replace(dataset, interactions=changed)
    catalogue = Catalogue.load(config.item_catalogue) if config.item_catalogue else dataset.catalogue
    if config.public_users:
        catalogue, ids = add_public_users(catalogue, Path(config.public_users))
        _check_apart(ids, dataset.interactions.user_ids)
    matrix = partial(histories, dataset.interactions, catalogue)
    hits = are_hits(dataset.interactions, config.hit_weight, kinds=kinds_of(config.kinds))
    if config.ignore_weights:
        dataset = replace(dataset, interactions=replace(dataset.interactions, weight=None))
    all_train = matrix(parts.train)
    parts = grown_parts(
        dataset.interactions, parts, share=config.train_share, rng=np.random.default_rng([seed, _GROWTH])
    )
    train, test = matrix(parts.train) if config.train_share < 1 else all_train, matrix(parts.held_out & hits)
    users = partition(
        all_train,
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


def _check_apart(public: npt.NDArray[np.object_], private: npt.NDArray[np.object_]) -> None:
    """Refuse public users who are in a silo, too: their private rows would say the same twice.

    Raises:
        ConfigurationError: says how many.
    """
    both = len(np.intersect1d(public, private))
    if both:
        raise ConfigurationError(
            f"Expected public users who are in no silo, got {both} of {len(public)} who are in the data set, too. "
            "Leave them out of one of the two."
        )


def _negatives(dataset: Dataset, catalogue: Catalogue) -> npt.NDArray[np.int64] | None:
    """The source's negatives as rows of the catalogue; -1 for those that it lacks."""
    if dataset.test_negatives is None:
        return None
    rows = np.append(catalogue.rows(dataset.interactions.item_ids), -1)
    return np.asarray(rows[dataset.test_negatives], dtype=np.int64)


def simulated_attributes(federation: SimulatedFederation, config: SimulationConfig) -> Attributes:
    """Attributes of the federation's rows from the table that the configuration names; none where it names none.

    Raises:
        DataError, ConfigurationError: see `read_attributes`.
    """
    if not config.user_attributes:
        return {}
    columns = parse_attribute_columns(config.attribute_columns)
    return read_attributes(Path(config.user_attributes).expanduser(), columns, federation.user_ids)


def simulated_user_numbers(
    federation: SimulatedFederation, rule: UserRule | None, config: SimulationConfig
) -> npt.NDArray[np.float64] | None:
    """Number of each user of the federation by a rule, float64 [n_users]; None without one.

    Raises:
        DataError: see `read_user_numbers`.
        ConfigurationError: nobody has said in which column of which table the attribute is.
    """
    if rule is None:
        return None
    named = parse_attribute_columns(config.attribute_columns) if config.user_attributes else {}
    if rule.attribute not in named:
        raise ConfigurationError(
            f"Expected {rule.attribute} in a table of users for {rule.key}, got none: --user-attributes FILE "
            f"--attribute-columns {rule.attribute}=COLUMN."
        )
    kept, asked = _NUMBERS.setdefault(federation, {}), (str(rule), config.user_attributes, named[rule.attribute])
    if asked not in kept:
        path = Path(config.user_attributes).expanduser()
        kept[asked] = read_user_numbers(path, named[rule.attribute], rule, federation.user_ids)
    return kept[asked]


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
