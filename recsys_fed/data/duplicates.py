"""Rows that repeat a (user, item) pair, found without sorting the rows that do not."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.int64]


def exact_duplicates(kept: Mask, *, pair: npt.NDArray[np.int64], columns: Mapping[str, Numbers | None]) -> Mask:
    """True for each kept row that a later kept row repeats in its pair and all columns, bool [n]."""
    rows = _repeated(kept, pair)
    found = {"pair": pair[rows]} | {name: column[rows] for name, column in columns.items() if column is not None}
    again = np.zeros(len(kept), dtype=bool)
    again[rows] = pd.DataFrame(found).duplicated(keep="last").to_numpy()
    return again


def outdated_pairs(
    kept: Mask, *, pair: npt.NDArray[np.int64], time: Numbers | None, weight: Numbers | None = None
) -> Mask:
    """True for each kept row whose pair has a kept row of more weight or, at equal weight, a later one, bool [n].

    Later is by time, then by position.
    """
    rows = _repeated(kept, pair)
    keys = [rows, *(column[rows] for column in (time, weight) if column is not None), pair[rows]]
    order = rows[np.lexsort(keys)]
    outdated = np.zeros(len(kept), dtype=bool)
    outdated[order[:-1]] = pair[order[:-1]] == pair[order[1:]]
    return outdated


def _repeated(kept: Mask, pair: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The kept rows whose pair occurs in more than one kept row."""
    rows = np.flatnonzero(kept)
    # Sorting numbers is much faster than hashing them, and most data has no repeated pair at all.
    ordered = np.sort(pair[rows])
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return rows[:0]
    again = pd.Index(np.unique(twice)).get_indexer(pair[rows]) >= 0
    return np.asarray(rows[again], dtype=np.int64)
