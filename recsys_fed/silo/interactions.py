"""Blocks of rows as the silo's interactions under pseudonyms; raw user ids are gone once a block is taken in."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.dataset import Finding, ValidationReport
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.readers.blocks import blocks_of
from recsys_fed.data.readers.interactions import (
    Columns,
    collect,
    dropped_findings,
    in_source,
    order_of,
    text_order,
    without_repeated,
)
from recsys_fed.data.readers.reading import Block
from recsys_fed.data.silo import signals_of, silo_dataset, ties_of
from recsys_fed.data.split import are_hits, leave_last_out
from recsys_fed.models.histories import NOTHING, Histories, Signal, Signals, histories_of, join_histories
from recsys_fed.silo.secret import NOBODY, Pseudonyms
from recsys_fed.silo.settings import DataSettings

Place = Callable[[int], str]
# Pseudonyms [n_users] of some users, and their histories.
Part = tuple[npt.NDArray[np.object_], Histories]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Users:
    """What is trained on of some users, in memory.

    Attributes:
        train, test: csr [n_users, n_items] over the catalogue; test is what hold-out keeps away, or empty.
        users: pseudonyms, object array of str [n_users].
        unknown_items: interactions with items that the catalogue lacks.
        short: users who were left out for want of history.
        ties: neighbours in a user's order whose times are equal, see `ties_of`; held-out items and those that the
            catalogue lacks included. All three are for the operator only.
        signals, test_signals: beside the entries of train and of test, those that are read.
    """

    train: sparse.csr_matrix
    test: sparse.csr_matrix
    users: npt.NDArray[np.object_]
    unknown_items: int
    short: int
    ties: int | None = None
    signals: Signals | None = None
    test_signals: Signals | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloData(_Users):
    """What a silo trains on, in memory: all of its users, and what validation found, for the operator only."""

    report: ValidationReport

    @property
    def interactions(self) -> int:
        """Number of interactions to train on."""
        return int(self.train.nnz)

    def histories(self, device: torch.device | str = "cpu") -> Histories:
        """What is trained on."""
        return histories_of(self.train, signals=self.signals, device=device)

    def parts(self) -> Iterator[Part]:
        """Users with all their interactions, held-out ones included: all at once."""
        # What is held out is each user's latest.
        yield self.users, join_histories(self.histories(), histories_of(self.test, signals=self.test_signals))


def read_silo_data(
    data: DataSettings, catalogue: Catalogue, pseudonyms: Pseudonyms, *, reads: frozenset[Signal] = NOTHING
) -> SiloData:
    """Read the configured source to its end, with the signals that the trainer `reads`.

    Guarantees: the unit is a user of this silo. Two files, folders or tables are neighbours if one has the rows of
    one user more, wherever they stand and whatever their cells hold; a row of text is a line. Whether any other user
    takes part, and with what, is then the same in both, for blocks of any size, in memory and on disk. That holds
    because
    - lines are split, and rows dropped, one by one (`data.readers.lines`, `rows`): no row is an error of the reading;
    - a cell is read by a rule that sees that cell and silo.toml alone (`data.readers.cells`): types and units
      never follow from a column or a block, and separators from the header or silo.toml;
    - repeated rows, the history's minimum, what is held out and signals are decided among a user's own rows, in the
      order of the file; the rows of a query have no order, so that equal times are ordered by value, then item. Which
      signals there are is decided by the trainer and silo.toml.
    A user whom `pseudonyms` names nobody (see `opt_out`) takes no part, as if there were no rows of that user.
    It covers neither a query whose answer for one user depends on others, or that fails on a row, nor damaged files.
    `audit.neighbouring_files` tries pairs.

    Raises:
        DataError, ConfigurationError: see `blocks_of`.
    """
    return collect_silo_data(blocks_of(data.reading()), data, catalogue, pseudonyms, reads=reads)


def collect_silo_data(
    blocks: Iterable[Block],
    data: DataSettings,
    catalogue: Catalogue,
    pseudonyms: Pseudonyms,
    *,
    reads: frozenset[Signal] = NOTHING,
) -> SiloData:
    """The silo's data of all blocks of its source."""
    found = collect(blocks, data.reading(), rename=pseudonyms.of)
    part = silo_part(found.columns, data, catalogue, reads=reads)
    left = np.flatnonzero(found.kept) if part.dropped else np.empty(0, dtype=np.int64)
    findings = part.findings(lambda row: found.account.place(int(left[row])))
    found.kept[found.kept] = part.kept
    report = found.account.report(data.source, findings, kept=found.kept)
    return SiloData(report=report, **{one.name: getattr(part, one.name) for one in fields(_Users)})


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloPart(_Users):
    """What follows from all kept rows of some users.

    Attributes:
        kept: which of the rows are interactions, bool [n_rows].
        dropped: by rule, which are not, bool [n_rows].
        timed: whether rows have times.
    """

    kept: npt.NDArray[np.bool_]
    dropped: dict[str, npt.NDArray[np.bool_]]
    timed: bool

    def findings(self, place: Place | None) -> tuple[Finding, ...]:
        """Rows that were dropped, by rule."""
        return dropped_findings(self.dropped, timed=self.timed, place=place)


def silo_part(
    columns: Columns, data: DataSettings, catalogue: Catalogue, *, reads: frozenset[Signal] = NOTHING
) -> SiloPart:
    """The histories of some users from all kept rows of theirs."""
    columns = columns.renumber(text_order)
    order = order_of(columns, data.source)
    interactions, kept, dropped = without_repeated(columns if order is None else columns.taken(order))
    if not np.isneginf(data.minimum_value) and interactions.value is not None:
        valued = np.asarray(interactions.value >= data.minimum_value, dtype=bool)
        interactions = interactions.select(valued)
        dropped["below the minimum value"] = np.zeros_like(kept)
        dropped["below the minimum value"][kept] = ~valued
        kept[kept] = valued
    if order is not None:
        kept, *masks = (in_source(mask, order) for mask in (kept, *dropped.values()))
        dropped = dict(zip(dropped, masks, strict=True))
    held = _none(interactions)
    if data.hold_out == "last" and len(interactions):
        hits = are_hits(interactions, data.hit_weight, kinds=data.kinds)
        held[hits] = leave_last_out(interactions.select(hits))
    whole = silo_dataset(interactions, catalogue)
    taking_part = np.asarray(interactions.user_ids != NOBODY, dtype=bool)
    enough = taking_part & (np.diff(whole.histories.indptr) >= data.minimum_history)
    train, test = (silo_dataset(interactions, catalogue, mask).histories[enough] for mask in (~held, held))
    signals = partial(
        signals_of, interactions=interactions, catalogue=catalogue, reads=reads, users=np.flatnonzero(enough)
    )
    return SiloPart(
        train=train,
        test=test,
        users=interactions.user_ids[enough],
        kept=kept,
        dropped=dropped,
        timed=columns.time is not None,
        unknown_items=whole.unknown_items,
        short=int(np.count_nonzero(taking_part & ~enough)),
        ties=ties_of(interactions.select(enough[interactions.user])),
        signals=signals(train),
        test_signals=signals(test),
    )


def _none(interactions: Interactions) -> npt.NDArray[np.bool_]:
    return np.zeros(len(interactions), dtype=bool)
