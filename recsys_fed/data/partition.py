"""Users to silos, for simulations: disjoint, complete, and as uneven as asked.

A silo may come out empty, under a strong skew of taste. An empty silo is a valid silo (an array of no users); it
takes part, and its contribution is noise only. More silos than users is a mistake, and `partition` refuses it. The
partition by taste is made from taste groups of items and users.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.checks import at_least, non_negative, one_of, positive
from recsys_fed.errors import ConfigurationError

_DIRECTIONS = 4

Groups = npt.NDArray[np.int64]


def group_items(histories: sparse.csr_matrix, catalogue: Catalogue | None, *, rng: np.random.Generator) -> Groups:
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


def group_users(histories: sparse.csr_matrix, groups: Groups) -> Groups:
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
        group_users(users, group_items(users, catalogue, rng=rng)), n_silos=n, rng=rng, alpha=alpha
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
