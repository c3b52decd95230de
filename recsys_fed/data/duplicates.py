"""Rows that repeat a (user, item) pair, found without sorting the rows that do not."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.int64]


def repeated_rows(pair: npt.NDArray[np.int64]) -> Rows:
    """The rows whose pair, int64 [n], occurs in more than one of them, ascending."""
    # Sorting numbers is much faster than hashing them, and most data has no repeated pair at all.
    ordered = np.sort(pair)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    if not len(twice):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(pd.Index(np.unique(twice)).get_indexer(pair) >= 0)


def exact_duplicates(rows: Rows, columns: Sequence[Numbers]) -> Mask:
    """True for each of the rows that a later one of them repeats in all columns [n], bool [len(rows)]."""
    found = pd.DataFrame({number: column[rows] for number, column in enumerate(columns)})
    return np.asarray(found.duplicated(keep="last"), dtype=bool)


def outdated_pairs(rows: Rows, pair: npt.NDArray[np.int64], *, keys: Sequence[Numbers]) -> Mask:
    """True for each of the rows whose pair has a better row among them, bool [len(rows)].

    Better is by the first of the keys, each [n], then the next, then by position.
    """
    order = np.lexsort([rows, *(key[rows] for key in reversed(keys)), pair[rows]])
    ordered = pair[rows[order]]
    outdated = np.zeros(len(rows), dtype=bool)
    outdated[order[:-1]] = ordered[:-1] == ordered[1:]
    return outdated
