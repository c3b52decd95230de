"""A data set: interactions, the catalogue they refer to, and what was found while reading.

What reading found is for the silo's own operator: counts, reasons and places, never what stands in a cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import Interactions
from recsys_fed.errors import DataError
from recsys_fed.extensions import register

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from recsys_fed.data.sources.source import Source

# Rules that are no faults of rows.
LEFT_OUT = {"below the minimum value": "Left out by the minimum value, which a row without a value does not reach."}


class _ArrowStream(Protocol):
    """What hands out its rows by Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule of a stream."""


def _cells_of(table: "pd.DataFrame | pa.Table", column: str) -> Any:
    """A column as a series, or as one Arrow array."""
    if not isinstance(table, pa.Table):
        return table[column]
    cells = table.column(column)
    # Arrow cannot join chunks of views.
    return (cells.cast(pa.large_string()) if pa.types.is_string_view(cells.type) else cells).combine_chunks()


def _table_of(frame: "_ArrowStream") -> pa.Table:
    """Its rows, read once: a relation of a database is a query."""
    try:
        return pa.table(frame)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"Expected a data frame of pandas, Polars, PyArrow or DuckDB, got {type(frame).__name__}."
        ) from error


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
    """Interactions with the public items that they refer to: what a source returns, or is made of data in memory.

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

    @classmethod
    def open(
        cls,
        spec: str | Path | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        kinds: Mapping[str, float] | None = None,
        format: str = "",
        source: "Source | None" = None,
    ) -> "Dataset":
        """Read a data set by its name or path, as `recsys-fed simulate --data` does.

        Args:
            spec: see `data.locate.open_dataset`.
            columns: role (user, item, value, time, kind, weight, test) -> name of its column, or its position.
            kinds: kind of event -> weight.
            format: of a text table, "separator=;,encoding=cp1252".
            source: reads it, a format of your own; what is installed is found by itself.

        Raises:
            DataError, ConfigurationError: it is not there, or cannot be read.
        """
        from recsys_fed.data.locate import open_dataset  # noqa: PLC0415  (it opens what this module defines)
        from recsys_fed.data.readers.reading import text_format_of  # noqa: PLC0415

        where = None if spec is None else str(spec)
        if source is not None:
            register("recsys_fed.sources", source.name, source)
            where = f"{source.name}:{where}"
        return open_dataset(where, columns=columns, kinds=kinds, form=text_format_of(format), say=lambda _: None)

    @classmethod
    def from_frame(  # noqa: PLR0913  (one a column)
        cls,
        frame: "pd.DataFrame | _ArrowStream",
        *,
        user: str,
        item: str,
        value: str | None = None,
        time: str | None = None,
        kind: str | None = None,
        weight: str | None = None,
        test: str | None = None,
        kinds: Mapping[str, float] | None = None,
        catalogue: Catalogue | None = None,
        name: str = "frame",
    ) -> "Dataset":
        """The interactions of a data frame, a row each; cells are read as those of a table are.

        Args:
            frame: of pandas, Polars, PyArrow, a DuckDB relation, or whatever hands out an Arrow stream; other columns
                than those that are named are left alone.
            user, item, value, time, kind, weight, test: names of columns.
            kinds: kind of event -> weight, beside `kind`.
            catalogue: the public items; without it those that occur, which a simulation may look at.
            name: of the data set.

        Raises:
            DataError: a column is not there, or no row is left; the report says why.
        """
        import pandas as pd  # noqa: PLC0415  (a service reads tables, and has no pandas)

        roles = {"user": user, "item": item, "value": value, "time": time}
        roles |= {"kind": kind, "weight": weight, "test": test}
        named = {role: column for role, column in roles.items() if column is not None}
        table = frame if isinstance(frame, pd.DataFrame) else _table_of(frame)
        there = list(table.column_names if isinstance(table, pa.Table) else table.columns)
        if missing := [column for column in named.values() if there.count(column) != 1]:
            raise DataError(f"Expected the columns {', '.join(missing)} in the data frame, once each.")
        cells = {role: _cells_of(table, column) for role, column in named.items()}
        return cls._read(cells, kinds=kinds or {}, catalogue=catalogue, name=name)

    @classmethod
    def from_csr(
        cls,
        matrix: "sparse.csr_matrix",
        *,
        user_ids: Sequence[str] | None = None,
        item_ids: Sequence[str] | None = None,
        catalogue: Catalogue | None = None,
        name: str = "matrix",
    ) -> "Dataset":
        """The entries of a SciPy matrix [n_users, n_items] that are stored, with their values.

        Args:
            matrix: users in rows, items in columns.
            user_ids, item_ids: of rows and columns; their numbers without them.
            catalogue, name: see `from_frame`.

        Raises:
            DataError: there is no entry, or there are too few ids.
        """
        entries = matrix.tocoo()
        ids = {"user": (user_ids, entries.row, matrix.shape[0]), "item": (item_ids, entries.col, matrix.shape[1])}
        columns: dict[str, object] = {"value": entries.data}
        for role, (given, places, size) in ids.items():
            names = np.arange(size).astype(str) if given is None else np.asarray(given, dtype=object)
            if len(names) != size:
                raise DataError(f"Expected {size} {role}_ids, got {len(names)}.")
            columns[role] = names[places]
        return cls._read(columns, kinds={}, catalogue=catalogue, name=name)

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        *,
        user: str,
        item: str,
        value: str | None = None,
        time: str | None = None,
        catalogue: Catalogue | None = None,
        name: str = "table",
    ) -> "Dataset":
        """The interactions of an Arrow table; see `from_frame`.

        Raises:
            DataError: a column is missing, or what `from_frame` refuses.
        """
        roles = {"user": user, "item": item, "value": value, "time": time}
        named = {role: column for role, column in roles.items() if column is not None}
        if missing := [column for column in named.values() if column not in table.column_names]:
            raise DataError(f"The table lacks the columns {', '.join(missing)}.")
        cells = {role: _cells_of(table, column) for role, column in named.items()}
        return cls._read(cells, kinds={}, catalogue=catalogue, name=name)

    @classmethod
    def _read(
        cls, cells: "Mapping[str, Any]", *, kinds: Mapping[str, float], catalogue: Catalogue | None, name: str
    ) -> "Dataset":
        """From Arrow arrays, series or NumPy arrays of equal length by role."""
        from recsys_fed.data.readers.interactions import block_of, interactions_of  # noqa: PLC0415
        from recsys_fed.data.readers.reading import Reading  # noqa: PLC0415

        interactions, report, is_test = interactions_of([block_of(cells)], Reading(path=name, kinds=kinds))
        return cls(
            name=name,
            interactions=interactions,
            catalogue=catalogue or Catalogue(item_ids=interactions.item_ids),
            report=report,
            is_test=is_test,
            note="data of the user's own",
        )
