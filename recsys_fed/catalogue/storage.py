"""The catalogue's file: one Parquet table whose metadata holds the content hash."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.errors import DataFormatError, DataNotFoundError

COLUMNS = ("item_ids", "titles", "categories", "texts")
# A column of numbers, that a catalogue has only where its texts were encoded.
VECTORS = "text_vectors"

_TYPES = {
    "item_ids": pa.string(),
    "titles": pa.string(),
    "categories": pa.list_(pa.string()),
    "texts": pa.large_string(),
    VECTORS: pa.list_(pa.float32()),
}
_HASH_KEY = b"recsys_fed.content_hash"


def write_columns(path: Path, columns: Mapping[str, Any], *, content_hash: str) -> None:
    """Write the columns that are not None; another process sees the old file or the whole new one."""
    present = {name: values for name, values in columns.items() if values is not None}
    schema = pa.schema(
        [pa.field(name, _TYPES[name], nullable=False) for name in present],
        metadata={_HASH_KEY: content_hash.encode()},
    )
    arrays = [_array(name, values) for name, values in present.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), temporary)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_columns(path: Path) -> tuple[dict[str, Any], str]:
    """The catalogue's columns and the hash that the file claims for them."""
    if not path.is_file():
        raise DataNotFoundError(f"Expected a catalogue (Parquet) at {path}, found no file.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"Expected a catalogue in Parquet at {path}, could not read it: {error}") from error
    content_hash = (table.schema.metadata or {}).get(_HASH_KEY)
    if content_hash is None or "item_ids" not in table.column_names:
        raise DataFormatError(
            f"Expected {path} to be a catalogue with an item_ids column and a content hash, "
            f"got the columns {', '.join(table.column_names)}. Write it with Catalogue.save."
        )
    columns = {name: table[name].to_pylist() for name in (*COLUMNS, VECTORS) if name in table.column_names}
    return _as_fields(columns, path), content_hash.decode(errors="replace")


def _array(name: str, values: Any) -> pa.Array:
    if name == VECTORS:
        starts = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(starts, pa.array(values.ravel(), type=pa.float32()))
    return pa.array(values, type=_TYPES[name])


def _as_fields(columns: dict[str, list[Any]], path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {name: tuple(values) for name, values in columns.items()}
    ids = np.empty(len(columns["item_ids"]), dtype=object)
    ids[:] = columns["item_ids"]
    fields["item_ids"] = ids
    if "categories" in fields:
        if not all(isinstance(entry, list) for entry in fields["categories"]):
            raise DataFormatError(f"Expected the categories in {path} to be lists of str.")
        fields["categories"] = tuple(map(tuple, fields["categories"]))
    if VECTORS in fields:
        try:
            fields[VECTORS] = np.array(columns[VECTORS], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataFormatError(f"Expected {VECTORS} in {path} to be lists of equally many numbers.") from error
    return fields
