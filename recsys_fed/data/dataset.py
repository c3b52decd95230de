"""A data set: interactions, the catalogue they refer to, and what was found while reading.

What reading found is for the silo's own operator: counts, reasons and places, never what stands in a cell.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import Interactions
from recsys_fed.errors import DataError

# Rules that are no faults of rows.
LEFT_OUT = {"below the minimum value": "Left out by the minimum value, which a row without a value does not reach."}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule that some rows broke.

    Attributes:
        rule: short name of the rule.
        count: number of rows.
        action: what was done with them.
        explanation: what was expected, and why the rows cannot stay as they are.
        examples: where the first few of them stand: "line 3" (of a text file, its header counted), "row 3" (of a
            table, from 1), perhaps with the name of a file before it.
    """

    rule: str
    count: int
    action: str
    explanation: str
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationReport:
    """All findings about one source; `n_rows` is `n_kept` plus the counts of the findings.

    It describes private data exactly: it stays with the silo's operator and is never sent.

    Attributes:
        source: the file or folder.
        n_rows: rows read.
        kept: whether each row was kept, bool [n_rows].
        findings: in the order in which the rules apply; a row is counted by the first that it breaks.
        notes: about rows that were kept without something that nobody needed; a row may be in several.
    """

    source: str
    n_rows: int
    kept: npt.NDArray[np.bool_] = field(repr=False)
    findings: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()

    @property
    def n_kept(self) -> int:
        """Rows kept."""
        return int(np.count_nonzero(self.kept))

    @property
    def is_clean(self) -> bool:
        """Whether every row was taken as it is."""
        return not self.findings and not self.notes

    def table(self) -> list[str]:
        """Plain lines for people: the totals, then two lines a finding."""
        lines = [f"{self.source}: {self.n_rows:,} rows read, {self.n_kept:,} kept"]
        for finding in (*self.findings, *self.notes):
            more = (*finding.examples, *(("...",) if finding.count > len(finding.examples) else ()))
            where = f" ({', '.join(more)})" if finding.examples else ""
            lines.append(f"  {finding.rule}: {finding.count:,} rows {finding.action}{where}")
            lines.append(f"    {finding.explanation}")
        return lines


def report_without(report: ValidationReport, left: npt.NDArray[np.bool_], rule: str) -> ValidationReport:
    """The report once more rows are left out: `left` says of each that was kept, bool [n_kept], if it stays."""
    kept = report.kept.copy()
    kept[kept] = left
    finding = Finding(
        rule=rule,
        count=int(np.count_nonzero(~left)),
        action="dropped",
        explanation=LEFT_OUT[rule],
        examples=(),
    )
    return replace(report, kept=kept, findings=(*report.findings, *((finding,) if finding.count else ())))


def clean_report(source: str, n_rows: int) -> ValidationReport:
    """The report of a source whose rows are right by construction."""
    return ValidationReport(source=source, n_rows=n_rows, kept=np.ones(n_rows, dtype=bool))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """What a source returns.

    Attributes:
        name: the data set's short name.
        interactions: all of them, train and test.
        catalogue: the items. A source without an item file takes the sorted ids that occur in the
            interactions: fine for a simulation, which may look at all data, but a deployed silo reads the
            public catalogue that its federation agreed on, since which items occur in a silo is private.
        report: what validation found and did.
        is_test: the split that comes with the source, bool [len(interactions)], or None.
        test_negatives: for each user the items that the source publishes as negatives of the test item, codes of the
            interactions' items or -1, int64 [n_users, n]; or None.
        note: the licence's word, or what the data is.

    Raises:
        DataError: `is_test` has another length than the interactions.
    """

    name: str
    interactions: Interactions
    catalogue: Catalogue
    report: ValidationReport
    is_test: npt.NDArray[np.bool_] | None = None
    test_negatives: npt.NDArray[np.int64] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.is_test is not None and self.is_test.shape != (len(self.interactions),):
            raise DataError(f"Expected is_test of shape ({len(self.interactions)},), got {self.is_test.shape}.")
