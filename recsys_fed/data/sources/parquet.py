"""Columns of a Parquet file under the names that validation knows."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.errors import DataFormatError


def column_names(path: Path) -> list[str]:
    """The names of the columns; reads the footer only.

    Raises:
        DataFormatError: the file is not Parquet.
    """
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"Expected Parquet in {path}: {error}") from error


def read_columns(path: Path, use: Mapping[str, str]) -> pd.DataFrame:
    """The columns `use` (name to give -> name in the file) of a Parquet file.

    Raises:
        DataFormatError: the file is not Parquet, or a column is not there.
    """
    there = column_names(path)
    missing = [name for name in use.values() if name not in there]
    if missing:
        raise DataFormatError(f"Expected the columns {', '.join(missing)} in {path}, got {', '.join(there)}.")
    try:
        table = pq.read_table(path, columns=list(dict.fromkeys(use.values())))
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"Expected Parquet in {path}: {error}") from error
    # Integers with gaps stay integers: as floats, ids above 2^53 would be rounded.
    frame = table.to_pandas(types_mapper=_NULLABLE.get)
    return pd.DataFrame({role: frame[name] for role, name in use.items()})


_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}
