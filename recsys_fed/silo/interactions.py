"""Blocks of rows as the silo's interactions under pseudonyms; raw user ids are gone once a block is taken in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.identifiers import id_array
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.report import ValidationReport
from recsys_fed.data.signals import signals_of, ties_of
from recsys_fed.data.silo import silo_dataset
from recsys_fed.data.split import leave_last_out
from recsys_fed.data.validation import Columns, without_repeated
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.models.signals import NOTHING, Signal, Signals
from recsys_fed.silo.block import Block
from recsys_fed.silo.blocks import blocks_of
from recsys_fed.silo.columns import IdColumn
from recsys_fed.silo.pseudonyms import Pseudonyms
from recsys_fed.silo.rows import Account, rows_of
from recsys_fed.silo.settings import DATABASES, DataSettings

# Pseudonyms [n_users] of some users, and their histories, csr [n_users, n_items].
Part = tuple[npt.NDArray[np.object_], sparse.csr_matrix]


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloData:
    """What a silo trains on, in memory.

    Attributes:
        train, test: csr [n_users, n_items] over the catalogue; test is what hold-out keeps away, or empty.
        users: pseudonyms, object array of str [n_users].
        report: what validation found. unknown_items: interactions with items that the catalogue lacks.
        short: users who were left out for want of history.
        ties: neighbours in a user's order whose times are equal, see `ties_of`; held-out items and those that the
            catalogue lacks included. All four are for the operator only.
        signals: beside the entries of train, those that are read.
    """

    train: sparse.csr_matrix
    test: sparse.csr_matrix
    users: npt.NDArray[np.object_]
    report: ValidationReport
    unknown_items: int
    short: int
    ties: int | None = None
    signals: Signals | None = None

    @property
    def interactions(self) -> int:
        """Number of interactions to train on."""
        return int(self.train.nnz)

    def histories(self, device: torch.device | str = "cpu") -> Histories:
        """What is trained on."""
        return histories_of(self.train, signals=self.signals, device=device)

    def parts(self) -> Iterator[Part]:
        """Users with all their interactions, held-out ones included: all at once."""
        yield self.users, self.train + self.test


def read_silo_data(
    data: DataSettings, catalogue: Catalogue, pseudonyms: Pseudonyms, *, reads: frozenset[Signal] = NOTHING
) -> SiloData:
    """Read the configured source to its end, with the signals that the trainer `reads`.

    Guarantees: the unit is a user of this silo. Two files, folders or tables are neighbours if one has the rows of
    one user more, wherever they stand and whatever their cells hold; a row of text is a line. Whether any other user
    takes part, and with what, is then the same in both, for blocks of any size, in memory and on disk. That holds
    because
    - lines are split, and rows dropped, one by one (`silo.lines`, `silo.rows`): no row is an error of the reading;
    - a cell is read by a rule that sees that cell and silo.toml alone (`silo.cells`, `catalogue.ids`): types and
      units never follow from a column or a block;
    - repeated rows, the history's minimum, what is held out and signals are decided among a user's own rows, in the
      order of the file; the rows of a query have no order, so that equal times are ordered by value, then item. Which
      signals there are is decided by the trainer and silo.toml.
    It covers neither a query whose answer for one user depends on others, or that fails on a row, nor damaged files.
    `audit.boundary.neighbouring_files` tries pairs.

    Raises:
        DataError, ConfigurationError: see `blocks_of`.
    """
    return collect(blocks_of(data), data, catalogue, pseudonyms, reads=reads)


def collect(
    blocks: Iterable[Block],
    data: DataSettings,
    catalogue: Catalogue,
    pseudonyms: Pseudonyms,
    *,
    reads: frozenset[Signal] = NOTHING,
) -> SiloData:
    """The silo's data of all blocks of its source."""
    users, items, account = Codes(), Codes(), Account()
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("broken", *data.columns)}
    for block in blocks:
        rows = rows_of(block, data)
        account.add(rows.broken)
        parts["broken"].append(rows.broken)
        parts["user"].append(users.of(rows.user, pseudonyms))
        parts["item"].append(items.of(rows.item))
        for role, column in (("value", rows.value), ("time", rows.time)):
            if column is not None:
                parts[role].append(column)
    nothing = np.empty(0, dtype=np.int64)
    whole: dict[str, npt.NDArray[Any]] = {name: np.concatenate(arrays or [nothing]) for name, arrays in parts.items()}
    kept = whole["broken"] == 0
    found = silo_data(
        Columns(
            user=whole["user"],
            item=whole["item"],
            user_ids=users.ids(),
            item_ids=items.ids(),
            value=whole.get("value"),
            time=whole.get("time"),
        ),
        data,
        catalogue,
        reads=reads,
    )
    rows_left = np.flatnonzero(kept)
    kept[rows_left] = found.report.kept
    return replace(found, report=account.report(data.source, _in_source(found.report, rows_left), kept=kept))


def silo_data(
    columns: Columns, data: DataSettings, catalogue: Catalogue, *, reads: frozenset[Signal] = NOTHING
) -> SiloData:
    """What follows from all kept rows of some users; the report is about these rows."""
    columns, order = _sorted(columns, by_content=data.source in DATABASES)
    interactions, report = without_repeated(columns, source=data.source)
    minimum = None if np.isneginf(data.minimum_value) else data.minimum_value
    if minimum is not None and interactions.value is not None:
        interactions = interactions.select(np.asarray(interactions.value >= minimum, dtype=bool))
    held = leave_last_out(interactions) if data.hold_out == "last" and len(interactions) else _none(interactions)
    whole = silo_dataset(interactions, catalogue)
    kept = np.diff(whole.histories.indptr) >= data.minimum_history
    train = silo_dataset(interactions, catalogue, ~held).histories[kept]
    return SiloData(
        train=train,
        test=silo_dataset(interactions, catalogue, held).histories[kept],
        users=interactions.user_ids[kept],
        report=report if order is None else _unsorted(report, order),
        unknown_items=whole.unknown_items,
        short=int(np.count_nonzero(~kept)),
        ties=ties_of(interactions.select(kept[interactions.user])),
        signals=signals_of(train, interactions, catalogue, reads=reads, users=np.flatnonzero(kept)),
    )


def _none(interactions: Interactions) -> npt.NDArray[np.bool_]:
    return np.zeros(len(interactions), dtype=bool)


def _sorted(columns: Columns, *, by_content: bool) -> tuple[Columns, npt.NDArray[np.int64] | None]:
    """Ids in the order of their text; with `by_content` also rows, by time, value and item, and their order."""
    user, user_ids = _by_text(columns.user, columns.user_ids)
    item, item_ids = _by_text(columns.item, columns.item_ids)
    columns = replace(columns, user=user, user_ids=user_ids, item=item, item_ids=item_ids)
    if not by_content:
        return columns, None
    keys = [item, *(column for column in (columns.value, columns.time) if column is not None)]
    order = np.lexsort(keys)
    rows = {name: getattr(columns, name)[order] for name in ("user", "item")}
    rows |= {name: c[order] for name in ("value", "time") if (c := getattr(columns, name)) is not None}
    return replace(columns, **rows), order


def _by_text(
    codes: npt.NDArray[np.int64], ids: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.object_]]:
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    position = np.empty(len(ids), dtype=np.int64)
    position[order] = np.arange(len(ids))
    return position[codes], ids[order]


def _unsorted(report: ValidationReport, order: npt.NDArray[np.int64]) -> ValidationReport:
    kept = np.empty_like(report.kept)
    kept[order] = report.kept
    return replace(_in_source(report, order), kept=kept)


def _in_source(report: ValidationReport, rows: npt.NDArray[np.int64]) -> ValidationReport:
    """The report whose example rows are named by their number in `rows`."""
    findings = (
        replace(finding, example_rows=tuple(int(rows[row - 1]) + 1 for row in finding.example_rows))
        for finding in report.findings
    )
    return replace(report, findings=tuple(findings))


class Codes:
    """Codes of ids over all blocks, in the order in which they first occur."""

    def __init__(self) -> None:
        self._code_of: dict[str, int] = {}

    def of(self, column: IdColumn, pseudonyms: Pseudonyms | None = None) -> npt.NDArray[np.int32]:
        """Codes [n] of a block's ids, which are replaced by pseudonyms if there are some."""
        used, codes = np.unique(column.codes, return_inverse=True)
        ids = (column.ids[code] for code in used.tolist())
        names = ids if pseudonyms is None else map(pseudonyms.of, ids)
        known = [self._code_of.setdefault(text, len(self._code_of)) for text in names]
        return np.array(known, dtype=np.int32)[codes] if known else np.empty(0, dtype=np.int32)

    def ids(self) -> npt.NDArray[np.object_]:
        """The ids by their codes, object array of str."""
        return id_array(self._code_of)
