"""Folds of a silo's users: what a recipe is fitted to, and what it is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys_fed import checks
from recsys_fed.personalisation.pairs import SiloPairs, silo_pairs
from recsys_fed.personalisation.silo_model import spread_users

_HELD_OUT = 0.2
# Silos of so many users validate on some of them only, once.
_LARGE, _ENOUGH = 1_000, 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One fold. Private to the silo.

    Attributes:
        n_users: whom recipes are fitted to.
        pairs: of their histories.
        some: histories of some of them, to set a scale.
        kept, held: of the other users, what is known of them and what is to be found, csr of the same rows.
    """

    n_users: int
    pairs: SiloPairs
    some: sparse.csr_matrix
    kept: sparse.csr_matrix
    held: sparse.csr_matrix

    @property
    def n_measured(self) -> int:
        """Users with something to be found."""
        return int((np.diff(self.held.indptr) > 0).sum())


def folds_of(train: sparse.csr_matrix, *, rng: np.random.Generator, folds: int = 4) -> tuple[Fold, ...]:
    """Every user of the silo in one fold; of a large silo 500 random users in a single one.

    A user who is asked keeps four fifths of the history. Folds in which nobody has anything to hold out are left out.
    """
    checks.at_least(2, folds=folds)
    n_users = train.shape[0]
    large = n_users >= _LARGE
    order = rng.permutation(n_users)
    number = (order >= _ENOUGH).astype(int) if large else order % folds
    return tuple(_made(train, number, range(1 if large else folds), rng=rng))


def _made(train: sparse.csr_matrix, number: np.ndarray, folds: range, *, rng: np.random.Generator) -> Iterator[Fold]:
    for k in folds:
        kept, held = held_out(train[number == k], share=_HELD_OUT, rng=rng)
        rest = train[number != k]
        if held.nnz and rest.nnz:
            yield Fold(n_users=rest.shape[0], pairs=silo_pairs(rest), some=spread_users(rest), kept=kept, held=held)


def held_out(
    users: sparse.csr_matrix, *, share: float, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """What is kept of each history, and a random share apart from it: at least one item of two or more."""
    rows, columns = users.nonzero()
    order = np.lexsort((rng.random(len(rows)), rows))
    sizes = np.diff(users.indptr)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = np.where(sizes > 1, np.maximum(np.round(share * sizes), 1), 0)
    held = place < np.repeat(wanted, sizes)
    kept, taken = (
        sparse.csr_matrix((np.ones(mask.sum()), (rows[order][mask], columns[order][mask])), shape=users.shape)
        for mask in (~held, held)
    )
    return kept, taken
