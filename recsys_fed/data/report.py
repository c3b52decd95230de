"""What validation found, for the silo's own operator: counts, reasons and row numbers, never an id."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule that some rows broke.

    Attributes:
        rule: short name of the rule.
        count: number of rows.
        action: what was done with them.
        explanation: what was expected, and why the rows cannot stay as they are.
        example_rows: the first few of them; the first row of data is row 1 (a header is not counted).
    """

    rule: str
    count: int
    action: str
    explanation: str
    example_rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationReport:
    """All findings about one source; `n_rows` is `n_kept` plus the counts of the findings.

    It describes private data exactly: it stays with the silo's operator and is never sent.

    Attributes:
        source: the file or folder.
        n_rows: rows read.
        kept: whether each row was kept, bool [n_rows].
        findings: in the order in which the rules apply; a row is counted by the first that it breaks.
    """

    source: str
    n_rows: int
    kept: npt.NDArray[np.bool_] = field(repr=False)
    findings: tuple[Finding, ...] = ()

    @property
    def n_kept(self) -> int:
        """Rows kept."""
        return int(np.count_nonzero(self.kept))

    def table(self) -> list[str]:
        """Plain lines for people: the totals, then two lines a finding."""
        lines = [f"{self.source}: {self.n_rows:,} rows read, {self.n_kept:,} kept"]
        for finding in self.findings:
            rows = ", ".join(str(row) for row in finding.example_rows)
            more = ", ..." if finding.count > len(finding.example_rows) else ""
            lines.append(f"  {finding.rule}: {finding.count:,} rows {finding.action} (rows {rows}{more})")
            lines.append(f"    {finding.explanation}")
        return lines


def clean_report(source: str, n_rows: int) -> ValidationReport:
    """The report of a source whose rows are right by construction."""
    return ValidationReport(source=source, n_rows=n_rows, kept=np.ones(n_rows, dtype=bool))
