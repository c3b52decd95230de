"""The k best items by score, equal scores by lower row: exactly, in blocks of users, or with a library's help."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.release import Floats, Release, Rows

# A row is folded into so many stripes; the maxima over stripes are few and bound the k-th best from below.
_STRIPES = 8
_BLOCK_USERS = 256


class Search(Protocol):
    """Finds the best rows of one user by v_i u + b_i."""

    def best(self, vector: Floats, k: int, *, without: Rows) -> tuple[Rows, Floats]:
        """The k best rows that are not in `without`, best first, and their exact scores."""


class ExactSearch:
    """All scores, then the best of them."""

    def __init__(self, release: Release) -> None:
        self._release = release

    def best(self, vector: Floats, k: int, *, without: Rows) -> tuple[Rows, Floats]:
        """See `Search`."""
        scores = self._release.vectors @ vector
        scores += self._release.bias
        scores[without] = -np.inf
        rows = top_rows(scores, k)
        return rows, scores[rows]


def top_rows(scores: Floats, k: int) -> Rows:
    """The k best finite entries of `scores` [n], best first, equal ones by lower row; fewer if there are fewer."""
    n = len(scores)
    if k < n:
        width = n // _STRIPES
        if width > 4 * k:
            maxima = scores[: width * _STRIPES].reshape(_STRIPES, width).max(0)
            least = np.partition(maxima, width - k)[width - k]
        else:
            least = np.partition(scores, n - k)[n - k]
        rows = np.flatnonzero(scores >= least)
    else:
        rows = np.arange(n)
    rows = rows[np.isfinite(scores[rows])]
    # Rows ascend, so a stable sort leaves equal scores in the order of their rows.
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]


def best_of_many(
    release: Release, vectors: Floats, k: int, *, without: Sequence[Rows]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The k best rows of many users: rows int64 [n_users, k] (-1 where a list is shorter) and scores [n_users, k].

    Args:
        release: the model.
        vectors: float32 [n_users, dim].
        k: length of the lists.
        without: for each user the rows that are left out.
    """
    n_users = len(vectors)
    rows = np.full((n_users, k), -1, dtype=np.int64)
    values = np.full((n_users, k), -np.inf, dtype=np.float32)
    for start in range(0, n_users, _BLOCK_USERS):
        stop = min(start + _BLOCK_USERS, n_users)
        scores = vectors[start:stop] @ release.vectors.T
        scores += release.bias
        left_out = without[start:stop]
        users = np.repeat(np.arange(stop - start), [len(own) for own in left_out])
        if len(users):
            scores[users, np.concatenate(left_out)] = -np.inf
        _best_of_block(scores, rows[start:stop], values[start:stop])
    return rows, values


def _best_of_block(scores: Floats, rows: npt.NDArray[np.int64], values: Floats) -> None:
    """Write the best of every row of `scores` [n, n_items] to `rows` and `values` [n, k]."""
    (n, n_items), k = scores.shape, rows.shape[1]
    width = n_items // _STRIPES
    if width <= 4 * k:
        for user in range(n):
            best = top_rows(scores[user], k)
            rows[user, : len(best)], values[user, : len(best)] = best, scores[user, best]
        return
    maxima = scores[:, : width * _STRIPES].reshape(n, _STRIPES, width).max(1)
    least = np.partition(maxima, width - k, axis=1)[:, width - k]
    flat = np.flatnonzero(scores >= least[:, None])
    users, items = np.divmod(flat, n_items)
    found = scores.ravel()[flat]
    kept = np.isfinite(found)
    users, items, found = users[kept], items[kept], found[kept]
    # By user, then score; `flat` ascends, so a stable sort leaves equal scores in the order of their rows.
    order = np.lexsort((-found, users))
    users, items, found = users[order], items[order], found[order]
    place = np.arange(len(users)) - np.searchsorted(users, users)
    listed = place < k
    rows[users[listed], place[listed]] = items[listed]
    values[users[listed], place[listed]] = found[listed]
