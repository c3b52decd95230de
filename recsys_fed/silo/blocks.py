"""A silo's rows as a stream of blocks with the columns user, item, value and time, whatever they are read from.

A source is opened for reading only, and nothing but the path or the query of silo.toml is ever read.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.silo.database import query_blocks
from recsys_fed.silo.settings import DataSettings

Blocks = Iterator[pd.DataFrame]


def blocks_of(data: DataSettings) -> Blocks:
    """The rows of the configured source, at most `block_rows` at a time, columns named by their roles.

    Raises:
        DataNotFoundError: there is no such file, folder or database.
        DataFormatError: it is something else, or lacks a column that was named.
    """
    return _READERS[data.source](data)


def _csv_blocks(data: DataSettings) -> Blocks:
    path = _there(Path(data.path))
    kind: dict[str, Any] = {"sep": "\t" if path.suffix == ".tsv" else ",", "encoding": "utf-8-sig"}
    try:
        _named(data.columns, list(pd.read_csv(path, nrows=0, **kind).columns), path)
        reader = pd.read_csv(
            path,
            usecols=list(dict.fromkeys(data.columns.values())),
            # Ids stay text: "007" is not 7.
            dtype={data.user: object, data.item: object},
            keep_default_na=False,
            na_values={name: [""] for name in data.columns.values()},
            chunksize=data.block_rows,
            **kind,
        )
        with reader:
            for block in reader:
                yield _roles(block, data.columns, path)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, "CSV in UTF-8", error) from error


def _parquet_blocks(data: DataSettings) -> Blocks:
    path = _there(Path(data.path))
    try:
        found = pads.dataset(path, format="parquet", exclude_invalid_files=False)
        _named(data.columns, found.schema.names, path)
        names = list(dict.fromkeys(data.columns.values()))
        for batch in found.to_batches(columns=names, batch_size=data.block_rows, use_threads=False):
            if batch.num_rows:
                # Integers with gaps stay integers: as floats, ids above 2^53 would be rounded.
                frame = pa.Table.from_batches([batch]).to_pandas(integer_object_nulls=True)
                yield _roles(frame, data.columns, path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from error


def _query_blocks(data: DataSettings) -> Blocks:
    for block in query_blocks(data):
        yield _roles(block, data.columns, Path(data.source))


def _there(path: Path) -> Path:
    if not path.exists():
        raise DataNotFoundError(f"Expected the silo's data at {path}, there is nothing. See data.path of silo.toml.")
    return path


def _roles(frame: pd.DataFrame, columns: Mapping[str, str], source: Path) -> pd.DataFrame:
    _named(columns, [str(name) for name in frame.columns], source)
    return pd.DataFrame({role: frame[name] for role, name in columns.items()})


def _named(columns: Mapping[str, str], there: list[str], source: Path) -> None:
    missing = [name for name in columns.values() if name not in there]
    if missing:
        raise DataFormatError(
            f"Expected the columns {', '.join(missing)} in {source}, got {', '.join(there)}. Name them in [data]."
        )


def _unreadable(path: Path, expected: str, error: Exception) -> DataFormatError:
    """Without the parser's text, which may hold a row."""
    return DataFormatError(f"Expected {expected} with the columns of [data] in {path}, got {type(error).__name__}.")


_READERS: dict[str, Callable[[DataSettings], Blocks]] = {
    "csv": _csv_blocks,
    "parquet": _parquet_blocks,
    "sqlite": _query_blocks,
    "postgresql": _query_blocks,
}
