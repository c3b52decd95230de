"""Blocks as rows that can be trained on, and an account of all others: a row falls to the first rule that it breaks.

Whether a row is kept follows from that row and silo.toml alone. (Repeated rows come later: `silo.interactions`.)
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from recsys_fed.data.report import Finding, ValidationReport
from recsys_fed.silo.block import Block
from recsys_fed.silo.cells import LATEST, MISSING, UNREADABLE
from recsys_fed.silo.columns import IdColumn, ids_of, times_of, values_of
from recsys_fed.silo.settings import DataSettings, moment

_EXAMPLES = 5
_MOST_VALUE = float(np.finfo(np.float32).max)
# In the order in which they apply.
RULES = {
    "malformed row": "Expected one line a row, quotes that close, and as many fields as the header has.",
    "missing user": "Expected a user id, got none.",
    "missing item": "Expected an item id, got none.",
    "unparsable value": "Expected a number as value, got something else.",
    "missing value": "Expected a value, got none (or NaN).",
    "infinite value": f"Expected a finite value within +-{_MOST_VALUE:.3g}.",
    "unparsable time": "Expected a number (since 1970), ISO 8601 or a date as time, got something else.",
    "missing time": "Expected a time, got none (or NaN).",
    "negative time": "Expected a time from 1970 on.",
    "absurd time": "Expected a time before the year 2100, in time-unit of [data] or by the size of each number.",
    "outside since and until": "Left out by since and until of [data].",
}
_CODE = {rule: code for code, rule in enumerate(RULES, start=1)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The kept rows of a block, in their order.

    Attributes:
        broken: uint8 [rows of the block], which rule a row breaks (1 is the first), 0 for those that are kept.
        user, item: ids of the kept rows; every code is 0 or more.
        value, time: of the kept rows, where the source has them; time in microseconds since 1970.
    """

    broken: npt.NDArray[np.uint8]
    user: IdColumn
    item: IdColumn
    value: npt.NDArray[np.float64] | None
    time: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.user.codes)


def rows_of(block: Block, data: DataSettings) -> Rows:
    """Read the cells of a block.

    Guarantees: which rows are kept, and with what, is a function of each row by itself and of `data`.
    """
    user, item = ids_of(block.cells["user"]), ids_of(block.cells["item"])
    broken: dict[str, npt.NDArray[np.bool_]] = {"missing user": user.codes < 0, "missing item": item.codes < 0}
    value = time = None
    if "value" in block.cells:
        column = values_of(block.cells["value"])
        value = column.values
        broken |= {"unparsable value": column.unreadable, "missing value": column.missing}
        broken["infinite value"] = np.abs(value) > _MOST_VALUE
    if "time" in block.cells:
        time = times_of(block.cells["time"], data.time_unit)
        broken |= {"unparsable time": time == UNREADABLE, "missing time": time == MISSING}
        broken |= {"negative time": time < 0, "absurd time": time > LATEST}
        broken["outside since and until"] = ~_in_span(time, data)
    first = np.select(list(broken.values()), [_CODE[rule] for rule in broken], 0).astype(np.uint8)
    kept = first == 0
    whole = np.full(len(block), _CODE["malformed row"], dtype=np.uint8)
    whole[block.well_formed] = first
    return Rows(
        broken=whole,
        user=IdColumn(codes=user.codes[kept], ids=user.ids),
        item=IdColumn(codes=item.codes[kept], ids=item.ids),
        value=None if value is None else value[kept],
        time=None if time is None else time[kept],
    )


def _in_span(time: npt.NDArray[np.int64], data: DataSettings) -> npt.NDArray[np.bool_]:
    """From `since` on and before `until`, on the clock of the rows."""
    inside = np.ones(len(time), dtype=bool)
    since, until = moment(data.since), moment(data.until)
    if since is not None:
        inside &= time >= round(since * 1e6)
    if until is not None:
        inside &= time < round(until * 1e6)
    return inside


@dataclass(kw_only=True)
class Account:
    """Which rows of a source fell to which rule, counted block by block; the operator's own."""

    counts: Counter[int] = field(default_factory=Counter)
    examples: dict[int, list[int]] = field(default_factory=dict)
    n_rows: int = 0

    def add(self, broken: npt.NDArray[np.uint8]) -> None:
        """Take in one block's `Rows.broken`."""
        for code in np.unique(broken[broken > 0]).tolist():
            rows = np.flatnonzero(broken == code)
            self.counts[code] += len(rows)
            examples = self.examples.setdefault(code, [])
            examples += (self.n_rows + rows[: _EXAMPLES - len(examples)] + 1).tolist()
        self.n_rows += len(broken)

    def findings(self) -> tuple[Finding, ...]:
        """One for each rule that was broken."""
        return tuple(
            Finding(
                rule=rule,
                count=self.counts[code],
                action="dropped",
                explanation=explanation,
                example_rows=tuple(self.examples[code]),
            )
            for code, (rule, explanation) in enumerate(RULES.items(), start=1)
            if self.counts[code]
        )

    def report(self, source: str, repeated: ValidationReport, *, kept: npt.NDArray[np.bool_]) -> ValidationReport:
        """All that was dropped: here, and what `repeated` says of the rows that were left."""
        return ValidationReport(
            source=source, n_rows=self.n_rows, kept=kept, findings=(*self.findings(), *repeated.findings)
        )
