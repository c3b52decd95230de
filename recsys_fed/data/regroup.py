"""Regrouping out of core: a Parquet file of interactions in any order becomes histories on disk, user by user.

The rows are dealt into buckets by a hash of their user, one batch of rows in memory at a time; a bucket, which fits
into memory and holds all rows of its users, is then validated and written like a small silo of its own.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.checks import at_least
from recsys_fed.data.columns import identifiers
from recsys_fed.data.silo import silo_dataset
from recsys_fed.data.sources.parquet import read_columns
from recsys_fed.data.validation import validate
from recsys_fed.models.signals import NOTHING, Signal
from recsys_fed.models.stored_histories import HistoryWriter

USERS = "users.parquet"
BUCKET_ROWS = 4_000_000
_BATCH_ROWS = 1 << 20
# Files that are open at once.
_MOST_BUCKETS = 512


@dataclass(frozen=True, kw_only=True)
class Regrouped:
    """What came of it; counts of a silo, for its local report only."""

    n_users: int
    n_rows: int
    kept_rows: int
    unknown_items: int


def regroup(
    path: Path,
    catalogue: Catalogue,
    folder: Path,
    *,
    columns: Mapping[str, str],
    min_value: float | None = None,
    bucket_rows: int = BUCKET_ROWS,
    reads: frozenset[Signal] = NOTHING,
) -> Regrouped:
    """Write the histories of a Parquet file to `folder` (see `stored_histories`), with the user ids in USERS.

    Users, items and rules are those of reading the file as a whole: every row is validated beside all rows of its
    user. The order of users is another one: by bucket, then by id. Memory is bounded by a batch of rows, a bucket
    of about `bucket_rows` rows and 8 bytes a user.

    Args:
        path: of the file.
        catalogue: the public items; interactions with others are counted and left out.
        folder: takes the result; it also holds the buckets while they are being made.
        columns: of user, item and perhaps value and time, see `resolve_columns`.
        min_value: only interactions with at least this value count.
        bucket_rows: rows to aim at in a bucket.
        reads: the signals that a trainer reads.

    Raises:
        DataError, ConfigurationError: as for reading the file as a whole.
    """
    at_least(1, bucket_rows=bucket_rows)
    n_rows = int(pq.read_metadata(path).num_rows)
    n_buckets = min(max(1, math.ceil(n_rows / bucket_rows)), _MOST_BUCKETS)
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.zeros(3, dtype=np.int64)
    with TemporaryDirectory(dir=folder, prefix="buckets-") as scratch, HistoryWriter(folder) as histories:
        buckets = _deal(path, Path(scratch), use=columns, n_buckets=n_buckets)
        schema = pa.schema([("user_id", pa.string())])
        with pq.ParquetWriter(folder / USERS, schema) as users:
            for bucket in buckets:
                frame = read_columns(bucket, {role: role for role in columns})
                interactions, report = validate(frame, source=str(path), may_be_empty=True)
                silo = silo_dataset(interactions, catalogue, min_value=min_value, reads=reads)
                histories.append(silo.histories, silo.signals)
                users.write_table(pa.table({"user_id": pa.array(silo.user_ids, pa.string())}))
                counts += (len(silo.user_ids), int(report.kept.sum()), silo.unknown_items)
                bucket.unlink()
    n_users, kept, unknown = counts.tolist()
    return Regrouped(n_users=n_users, n_rows=n_rows, kept_rows=kept, unknown_items=unknown)


def _deal(path: Path, scratch: Path, *, use: Mapping[str, str], n_buckets: int) -> list[Path]:
    """Deal the rows into Parquet files by their user; the rows of a user stay in their order."""
    writers: dict[int, pq.ParquetWriter] = {}
    with ExitStack() as stack:
        for batch in _batches(path, use):
            bucket = _bucket_of(batch.column("user"), n_buckets)
            order = np.argsort(bucket, kind="stable")
            dealt = batch.take(pa.array(order))
            ends = np.cumsum(np.bincount(bucket, minlength=n_buckets))
            for number, (start, stop) in enumerate(zip(np.append(0, ends[:-1]), ends, strict=True)):
                if stop > start:
                    if number not in writers:
                        file = scratch / f"{number}.parquet"
                        writers[number] = stack.enter_context(pq.ParquetWriter(file, dealt.schema))
                    writers[number].write_table(dealt.slice(start, stop - start))
    return [scratch / f"{number}.parquet" for number in sorted(writers)]


def _batches(path: Path, use: Mapping[str, str]) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(dict.fromkeys(use.values()))):
            table = pa.Table.from_batches([batch])
            yield pa.table({role: table.column(name) for role, name in use.items()})


def _bucket_of(users: pa.ChunkedArray, n_buckets: int) -> npt.NDArray[np.int16]:
    """By a hash of the id as text, so that 12, 12.0 and " 12" meet; rows without a user go to bucket 0."""
    codes, ids = identifiers(pd.Series(users.to_pandas(integer_object_nulls=True)))
    of_id = np.append(pd.util.hash_array(ids) % n_buckets, 0) if len(ids) else np.zeros(1)
    return of_id.astype(np.int16)[codes]
