"""Users to silos, for simulations: disjoint, complete, and as uneven as asked.

A silo may come out empty, under a strong skew of taste. An empty silo is a valid silo (an array of no users); it
takes part, and its contribution is noise only. More silos than users is a mistake, and `partition` refuses it.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.checks import at_least, non_negative, one_of, positive
from recsys_fed.data.taste import item_groups, user_groups
from recsys_fed.errors import ConfigurationError

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
        user_groups(users, item_groups(users, catalogue, rng=rng)), n_silos=n, rng=rng, alpha=alpha
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
