"""A silo's data that does not fit into memory: dealt by user into buckets on disk, then written as histories on disk.

Pseudonyms are uniform, so their first byte deals users evenly into 256 buckets, in the order in which users stand in
memory. A bucket holds all rows of its users and is read like a small silo of its own; what is trained is therefore
the same to the last bit of the exact sums. On disk are, for as long as a silo serves, the items of each user without
the user, and what the trainer reads besides; while rows are dealt also pseudonyms, values and times. Memory takes a
block of rows, a bucket, and about 100 bytes a user.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.dataset import Finding, ValidationReport
from recsys_fed.data.interactions import id_array
from recsys_fed.data.readers.blocks import blocks_of
from recsys_fed.data.readers.interactions import DROPPED, Codes, Columns
from recsys_fed.data.readers.reading import are_positions
from recsys_fed.data.readers.rows import Account, Rows, rows_of
from recsys_fed.models.histories import NOTHING, Signal, Signals, histories_of, join_histories, join_signals
from recsys_fed.models.stored_histories import HistoryWriter, StoredHistories, stored_histories
from recsys_fed.silo.interactions import Part, SiloData, SiloPart, read_silo_data, silo_part
from recsys_fed.silo.secret import Pseudonyms
from recsys_fed.silo.settings import DataSettings

# Of the folders that a silo which serves holds; what a crash leaves there is removed at the next start.
SERVING = "serving-"
_BUCKETS = 256
_TYPES = {"user": "S32", "item": "<i4", "value": "<f4", "time": "<i8", "weight": "<f4"}


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSiloData:
    """What a silo trains on, from disk; the same names as `SiloData`.

    Attributes:
        folder: holds the histories, until nobody holds this any more.
        test, users, report, unknown_items, short, ties, test_signals: see `SiloData`.
    """

    folder: "TemporaryDirectory[str]"
    n_items: int
    test: sparse.csr_matrix
    users: npt.NDArray[np.object_]
    report: ValidationReport
    unknown_items: int
    short: int
    ties: int | None = None
    test_signals: Signals | None = None

    @property
    def interactions(self) -> int:
        """Number of interactions to train on."""
        return int(self.histories().starts[-1])

    def histories(self, device: torch.device | str = "cpu") -> StoredHistories:
        """What is trained on."""
        return stored_histories(Path(self.folder.name), n_items=self.n_items, device=device)

    def parts(self) -> Iterator[Part]:
        """Users with all their interactions, a block of users at a time."""
        held = histories_of(self.test, signals=self.test_signals)
        if not len(self.users):
            yield self.users, held
        first = 0
        for block in self.histories().blocks():
            last = first + block.n_users
            yield self.users[first:last], join_histories(block, held.block(first, last))
            first = last


def open_silo_data(
    data: DataSettings,
    catalogue: Catalogue,
    pseudonyms: Pseudonyms,
    *,
    prefix: str = SERVING,
    reads: frozenset[Signal] = NOTHING,
) -> SiloData | StoredSiloData:
    """Read the silo's data into memory or, where silo.toml names a folder for blocks, to disk."""
    if data.blocks:
        return read_stored_data(data, catalogue, pseudonyms, prefix=prefix, reads=reads)
    return read_silo_data(data, catalogue, pseudonyms, reads=reads)


def clear_blocks(data: DataSettings) -> None:
    """Remove what a silo that served has left on disk."""
    for folder in Path(data.blocks).glob(f"{SERVING}*") if data.blocks else ():
        shutil.rmtree(folder, ignore_errors=True)


def read_stored_data(
    data: DataSettings,
    catalogue: Catalogue,
    pseudonyms: Pseudonyms,
    *,
    prefix: str = SERVING,
    reads: frozenset[Signal] = NOTHING,
) -> StoredSiloData:
    """Read the configured source to its end, once, into a new folder `prefix`... below `data.blocks`.

    Guarantees: those of `read_silo_data`.

    Raises:
        DataError, ConfigurationError: see `blocks_of` and `validate`.
    """
    Path(data.blocks).mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = TemporaryDirectory(dir=data.blocks, prefix=prefix)
    counts: Counter[str] = Counter()
    firsts: dict[str, Finding] = {}
    parts: list[SiloPart] = []
    with TemporaryDirectory(dir=folder.name) as scratch, HistoryWriter(Path(folder.name)) as writer:
        items, account, positions = _deal(data, pseudonyms, Path(scratch))
        item_ids = items.ids()
        for bucket in sorted(Path(scratch).iterdir()):
            columns = replace(_columns(bucket, item_ids, _row_type(data)), positions=positions)
            part = silo_part(columns, data, catalogue, reads=reads)
            bucket.unlink()
            writer.append(part.train, part.signals)
            findings = part.findings(None)
            counts += Counter({finding.rule: finding.count for finding in findings})
            firsts |= {finding.rule: finding for finding in findings}
            nothing = np.empty(0, dtype=bool)
            emptied = sparse.csr_matrix((0, catalogue.n_items))
            parts.append(replace(part, train=emptied, kept=nothing, dropped={}, signals=None))
    repeated = tuple(replace(finding, count=counts[rule]) for rule, finding in firsts.items())
    # One byte in place of one a row: which rows were kept is in the histories.
    kept = np.broadcast_to(np.True_, account.n_kept - counts.total())
    empty = sparse.csr_matrix((0, catalogue.n_items), dtype=np.float32)
    return StoredSiloData(
        folder=folder,
        n_items=catalogue.n_items,
        test=sparse.vstack([empty, *(part.test for part in parts)], format="csr"),
        users=np.concatenate([np.empty(0, dtype=object), *(part.users for part in parts)]),
        report=account.report(data.source, _sort_rules(repeated), kept=kept),
        unknown_items=sum(part.unknown_items for part in parts),
        short=sum(part.short for part in parts),
        ties=sum(part.ties or 0 for part in parts) if data.time else None,
        test_signals=join_signals([part.test_signals for part in parts]),
    )


def _deal(data: DataSettings, pseudonyms: Pseudonyms, scratch: Path) -> tuple[Codes, Account, bool]:
    """Append each kept row to the file of its user's bucket; rows of a user stay in their order.

    Returns:
        The items, the account of all rows, and whether their times are places in an order.
    """
    items, account, reading, positions = Codes(), Account(), data.reading(), are_positions(data.time)
    # A source of no rows has its columns all the same: one bucket is always there.
    (scratch / "000").touch()
    with ExitStack() as stack:
        files = {}
        for block in blocks_of(reading):
            kept = rows_of(block, reading)
            account.add(kept)
            positions |= kept.positions
            rows = _records(kept, items, pseudonyms, _row_type(data))
            bucket = _bucket_of(rows["user"])
            dealt = rows[np.argsort(bucket, kind="stable")]
            ends = np.cumsum(np.bincount(bucket, minlength=_BUCKETS))
            for one in np.unique(bucket).tolist():
                if one not in files:
                    files[one] = stack.enter_context((scratch / f"{one:03}").open("ab"))
                files[one].write(dealt[ends[one - 1] if one else 0 : ends[one]].tobytes())
    return items, account, positions


def _row_type(data: DataSettings) -> np.dtype[np.void]:
    """A row on disk: the columns that the silo has."""
    optional = (("value", data.value), ("time", data.time), ("weight", data.kind or data.weight))
    names = ["user", "item", *(name for name, there in optional if there)]
    return np.dtype([(name, _TYPES[name]) for name in names])


def _records(kept: Rows, items: Codes, pseudonyms: Pseudonyms, row_type: np.dtype[np.void]) -> npt.NDArray[np.void]:
    rows = np.zeros(len(kept), dtype=row_type)
    names, codes = np.unique(kept.user.codes, return_inverse=True)
    users = np.array([pseudonyms.of(kept.user.ids[code]) for code in names.tolist()], dtype="S32")
    rows["user"], rows["item"] = users[codes], items.of(kept.item)
    for name in (row_type.names or ())[2:]:
        rows[name] = getattr(kept, name)
    return rows


def _bucket_of(users: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """The first byte of the pseudonym, from its two hexadecimal digits."""
    digits = np.frombuffer(users.astype("S2").tobytes(), dtype=np.uint8).reshape(-1, 2).astype(np.int64)
    values = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0"))
    return np.asarray(16 * values[:, 0] + values[:, 1])


def _columns(bucket: Path, item_ids: npt.NDArray[np.object_], row_type: np.dtype[np.void]) -> Columns:
    """The rows of a bucket."""
    rows = np.fromfile(bucket, dtype=row_type)
    names, users = np.unique(rows["user"], return_inverse=True)
    used, items = np.unique(rows["item"], return_inverse=True)
    optional: dict[str, Any] = {name: rows[name] for name in (row_type.names or ())[2:]}
    return Columns(
        user=users.astype(np.int32),
        item=items.astype(np.int32),
        user_ids=id_array(name.decode() for name in names.tolist()),
        item_ids=item_ids[used],
        **optional,
    )


def _sort_rules(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """In the order of the rules; rows of a bucket have no place in the source, so that no examples are named."""
    return tuple(sorted(findings, key=lambda finding: list(DROPPED).index(finding.rule)))
