"""Validation: rows of a table become interactions, and every row that cannot is counted and explained."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_fed.data.columns import LATEST_SECONDS, Numbers, identifiers, numbers, time_limit
from recsys_fed.data.duplicates import exact_duplicates, outdated_pairs
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.report import Finding, ValidationReport
from recsys_fed.errors import DataFormatError

_EXAMPLES = 5

Mask = npt.NDArray[np.bool_]


class _Sieve:
    """Rows still kept, and the findings so far; a row falls to the first rule that it breaks."""

    def __init__(self, n_rows: int) -> None:
        self.kept = np.ones(n_rows, dtype=bool)
        self.findings: list[Finding] = []

    def drop(self, rule: str, broken: Mask, explanation: str) -> None:
        rows = np.flatnonzero(self.kept & broken)
        if not len(rows):
            return
        self.kept[rows] = False
        self.findings.append(
            Finding(
                rule=rule,
                count=len(rows),
                action="dropped",
                explanation=explanation,
                example_rows=tuple(int(row) + 1 for row in rows[:_EXAMPLES]),
            )
        )


def validate(
    frame: pd.DataFrame, *, source: str, may_be_empty: bool = False
) -> tuple[Interactions, ValidationReport]:
    """Turn a table into interactions; nothing is dropped without a finding.

    Args:
        frame: columns `user` and `item` (numbers or text; ids become str), and where there are `value`
            (a number) and `time` (seconds or milliseconds since 1970, a datetime, or a position >= 0).
        source: name of the file or folder for messages and the report.
        may_be_empty: take it if no row is left.

    Returns:
        The kept rows in their order, with user and item ids in id order, and the report. Times keep
        their unit (a datetime becomes seconds; fractions are cut). A column of times is taken as
        milliseconds if its median lies after 2100 in seconds; times after 2100 in the column's unit are
        dropped. Of several rows with the same user and item the latest stays: by time, else by row.

    Raises:
        DataFormatError: `user` or `item` is not a column, a cell holds a list, or no row is left.
    """
    for name in ("user", "item"):
        if name not in frame.columns:
            there = ", ".join(str(column) for column in frame.columns)
            raise DataFormatError(f"Expected the column {name} in {source}, got {there}.")
    sieve = _Sieve(len(frame))
    try:
        columns = _sift(frame, sieve)
        _drop_repeated(columns, sieve)
    except TypeError as error:
        raise DataFormatError(f"Expected one number or text a cell in {source}: {error}.") from error
    report = ValidationReport(source=source, n_rows=len(frame), kept=sieve.kept, findings=tuple(sieve.findings))
    if not sieve.kept.any() and not may_be_empty:
        lines = [f"Expected interactions in {source}, none is left.", *report.table()]
        raise DataFormatError("\n".join(lines))
    return _interactions(columns, sieve.kept), report


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """A parsed table, all rows [n_rows]; codes are -1 where the id is missing."""

    user: npt.NDArray[np.int64]
    item: npt.NDArray[np.int64]
    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    value: Numbers | None
    time: Numbers | None


def without_repeated(columns: Columns, *, source: str) -> tuple[Interactions, ValidationReport]:
    """What `validate` makes of rows that are whole: each user and item together once, the latest."""
    sieve = _Sieve(len(columns.user))
    _drop_repeated(columns, sieve)
    report = ValidationReport(
        source=source, n_rows=len(columns.user), kept=sieve.kept, findings=tuple(sieve.findings)
    )
    return _interactions(columns, sieve.kept), report


def _sift(frame: pd.DataFrame, sieve: _Sieve) -> Columns:
    user, user_ids = identifiers(frame["user"])
    item, item_ids = identifiers(frame["item"])
    sieve.drop("missing user", user < 0, "Expected a user id, got none.")
    sieve.drop("missing item", item < 0, "Expected an item id, got none.")
    value, time = _values(frame, sieve), _times(frame, sieve)
    return Columns(user=user, item=item, user_ids=user_ids, item_ids=item_ids, value=value, time=time)


def _drop_repeated(columns: Columns, sieve: _Sieve) -> None:
    pair = columns.user * max(1, len(columns.item_ids)) + columns.item
    again = exact_duplicates(sieve.kept, pair=pair, value=columns.value, time=columns.time)
    sieve.drop("exact duplicate", again, "Expected each row once; the last of equal rows is kept.")
    outdated = outdated_pairs(sieve.kept, pair=pair, time=columns.time)
    rule = "the last row" if columns.time is None else "the latest (of equal times the last row)"
    sieve.drop("repeated pair", outdated, f"Expected a user and an item together once; {rule} is kept.")


def _interactions(columns: Columns, kept: Mask) -> Interactions:
    user, user_ids = _compact(columns.user[kept], columns.user_ids)
    item, item_ids = _compact(columns.item[kept], columns.item_ids)
    return Interactions(
        user=user,
        item=item,
        user_ids=user_ids,
        item_ids=item_ids,
        value=None if columns.value is None else columns.value[kept].astype(np.float32),
        time=None if columns.time is None else columns.time[kept].astype(np.int64),
    )


def _values(frame: pd.DataFrame, sieve: _Sieve) -> Numbers | None:
    if "value" not in frame.columns:
        return None
    value, unparsable = numbers(frame["value"])
    sieve.drop("unparsable value", unparsable, "Expected a number as value, got something else.")
    sieve.drop("missing value", np.isnan(value), "Expected a value, got none (or NaN).")
    # A float64 above the float32 range would become infinite later.
    limit = np.finfo(np.float32).max
    sieve.drop("infinite value", np.abs(value) > limit, f"Expected a finite value within +-{limit:.3g}.")
    return value


def _times(frame: pd.DataFrame, sieve: _Sieve) -> Numbers | None:
    if "time" not in frame.columns:
        return None
    time, unparsable = numbers(frame["time"])
    sieve.drop("unparsable time", unparsable, "Expected a number as time (since 1970), got something else.")
    sieve.drop("missing time", np.isnan(time), "Expected a time, got none (or NaN).")
    sieve.drop("negative time", time < 0, "Expected a time >= 0 (seconds or milliseconds since 1970).")
    limit = time_limit(time[sieve.kept])
    unit = "seconds" if limit == LATEST_SECONDS else "milliseconds"
    sieve.drop("absurd time", time > limit, f"Expected a time before the year 2100 in {unit} ({limit:.0f}).")
    return time


def _compact(
    codes: npt.NDArray[np.int64], ids: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.object_]]:
    """Codes into the ids that still occur, as int32 (half the memory; ids are far fewer than 2^31)."""
    used = np.zeros(len(ids), dtype=bool)
    used[codes] = True
    renumbered = (np.cumsum(used) - 1).astype(np.int32)
    return np.asarray(renumbered[codes], dtype=np.int32), ids[used]
