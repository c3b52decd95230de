"""Columns of a raw table: ids of any type to codes, text or numbers to float or int."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_fed.catalogue.ids import spell_id
from recsys_fed.data.identifiers import id_order

Numbers = npt.NDArray[np.float64] | npt.NDArray[np.int64]

# 2100-01-01T00:00:00Z in seconds.
LATEST_SECONDS = 4_102_444_800


def identifiers(column: "pd.Series") -> tuple[npt.NDArray[np.int64], npt.NDArray[np.object_]]:
    """Codes (int64 [n], -1 where the id is missing) and the distinct ids (object array of str, in id order).

    Each id is spelled by `spell_id`: 12.0, as pandas reads integers beside a gap, is the id "12".
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, distinct = column.cat.codes.to_numpy(), column.cat.categories
    else:
        codes, distinct = pd.factorize(column)
    texts = np.empty(len(distinct) + 1, dtype=object)
    texts[:-1] = [spell_id(value) for value in distinct.tolist()]
    texts[-1] = None
    # Ids that are equal as text ("a" and " a") become one; code -1 picks the last entry, which is missing.
    merged, ids = pd.factorize(texts)
    order = id_order(ids)
    position = np.empty(len(ids) + 1, dtype=np.int64)
    position[order] = np.arange(len(ids))
    position[-1] = -1
    return position[merged][codes], np.asarray(ids, dtype=object)[order]


def numbers(
    column: "pd.Series",
) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """The column as numbers (NaN where there is none) and where it held something that is not a number.

    A datetime column becomes seconds since 1970.
    """
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = (column - pd.Timestamp(0, tz=column.dt.tz)) // pd.Timedelta(seconds=1)
    if pd.api.types.is_integer_dtype(column.dtype) and not column.hasnans:
        return column.to_numpy(dtype=np.int64), np.zeros(len(column), dtype=bool)
    parsed = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return parsed, np.isnan(parsed) & column.notna().to_numpy(dtype=bool)


def time_limit(time: Numbers) -> float:
    """The year 2100 in the unit of the column: seconds (or positions), or milliseconds by the median."""
    in_milliseconds = len(time) > 0 and float(np.median(time)) > LATEST_SECONDS
    return LATEST_SECONDS * 1000 if in_milliseconds else LATEST_SECONDS
