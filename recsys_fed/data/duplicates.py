"""Rows that repeat a (user, item) pair, found without sorting the rows that do not."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_fed.data.columns import Numbers

Mask = npt.NDArray[np.bool_]


def exact_duplicates(kept: Mask, *, pair: npt.NDArray[np.int64], value: Numbers | None, time: Numbers | None) -> Mask:
    """True for each kept row that a later kept row repeats in pair, value and time, bool [n]."""
    rows = _repeated(kept, pair)
    columns: dict[str, Numbers] = {"pair": pair[rows]}
    columns |= {} if value is None else {"value": value[rows]}
    columns |= {} if time is None else {"time": time[rows]}
    again = np.zeros(len(kept), dtype=bool)
    again[rows] = pd.DataFrame(columns).duplicated(keep="last").to_numpy()
    return again


def outdated_pairs(kept: Mask, *, pair: npt.NDArray[np.int64], time: Numbers | None) -> Mask:
    """True for each kept row whose pair has a later kept row (by time, then by position), bool [n]."""
    rows = _repeated(kept, pair)
    when = np.zeros(len(rows), dtype=np.int64) if time is None else time[rows]
    order = rows[np.lexsort((rows, when, pair[rows]))]
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
