"""A catalogue from a table of products: CSV or Parquet, a row an item, columns named by their roles."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.catalogue.ids import spell_id
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

ROLES = ("item", "title", "categories", "text")
# Between the categories of an item in a cell of text.
SEPARATOR = "|"
TEXT_TABLES = (".csv", ".tsv")
_PARQUET = {".parquet", ".pq"}
T = TypeVar("T")


def catalogue_of_table(path: Path, columns: Mapping[str, str] | None = None) -> Catalogue:
    """The items of a table, in its order.

    Args:
        path: of a .csv, .tsv or .parquet file.
        columns: role -> name of its column; `item` is needed. Categories are lists, or text with "|" between them.
            Ids are spelled by `spell_id`.
            Without them all columns have the names of roles.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is something else, lacks a column, or an item has no id.
        ConfigurationError: a role that there is not, or no column for `item`.
        DataError: an item occurs twice, or there is none.
    """
    table = _read(path)
    if columns is None:
        columns = _named_by_role(table, path)
    unknown = [role for role in columns if role not in ROLES]
    if unknown or "item" not in columns:
        raise ConfigurationError(
            f"Expected columns for item and perhaps {', '.join(ROLES[1:])}, got {dict(columns)}."
        )
    missing = [name for name in columns.values() if name not in table.columns]
    if missing:
        there = ", ".join(map(str, table.columns))
        raise DataFormatError(f"Expected the columns {', '.join(missing)} in {path}, got {there}.")
    ids = [spell_id(value) or "" for value in table[columns["item"]]]
    if "" in ids:
        raise DataFormatError(f"Expected an id of every item in {path}, row {ids.index('') + 1} has none.")
    return Catalogue(
        item_ids=np.array(ids, dtype=object),
        titles=_column(table, columns.get("title"), _text),
        categories=_column(table, columns.get("categories"), _categories),
        texts=_column(table, columns.get("text"), _text),
    )


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataNotFoundError(f"Expected a table of items at {path}, there is no such file.")
    try:
        if path.suffix.lower() in _PARQUET:
            # Integers beside a gap stay integers: as floats, ids above 2^53 would be rounded.
            table: pd.DataFrame = pq.read_table(path).to_pandas(integer_object_nulls=True)
            return table
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        # Ids stay text: "007" is not 7.
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DataFormatError(f"Expected a table of items in {path}: {error}.") from error


def _named_by_role(table: pd.DataFrame, path: Path) -> dict[str, str]:
    names = [str(name) for name in table.columns]
    if "item" not in names or set(names) - set(ROLES):
        raise DataFormatError(
            f"Expected the column item and any of {', '.join(ROLES[1:])} in {path}, got {', '.join(names)}."
        )
    return {name: name for name in names}


def _column(table: pd.DataFrame, name: str | None, read: Callable[[object], T]) -> tuple[T, ...] | None:
    return None if name is None else tuple(read(value) for value in table[name])


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()  # noqa: PLR0124  (NaN differs from itself)


def _categories(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple | np.ndarray) else _text(value).split(SEPARATOR)
    return tuple(text for text in (_text(part) for part in parts) if text)
