"""Tables that are public: of items, a row an item, titles with line breaks and all; and of users who consented to it.

Columns are found by their names.
Other than of a table of interactions every row must be read, or the table is refused with the place of what is wrong.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.catalogue.items import Catalogue, PublicUsers
from recsys_fed.data.readers._lines import (
    TextTable,
    fields_of,
    json_blocks,
    json_roles,
    open_text,
    row_of,
    text_table,
)
from recsys_fed.data.readers.blocks import source_of
from recsys_fed.data.readers.cells import decode, spell_id
from recsys_fed.data.readers.reading import PRODUCT_ROLES, PUBLIC_USER_ROLES, TextFormat, check_roles, find_roles
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, MissingColumnError

# Between the categories of an item in a cell of text.
SEPARATOR = "|"
TEXT_TABLES = (".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson", ".json", ".gz", ".zst", ".bz2")
# Lines that one record may take.
_MOST_LINES = 10_000
_LINE_BREAKS = re.compile(r"\s*[\r\n]+\s*")


@dataclass(frozen=True, kw_only=True)
class Products:
    """The items of a table, in its order; a column that it lacks is None.

    Attributes:
        ids: spelled by `spell_id`. titles, texts: "" where an item has none. categories: of each item.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...] | None = None
    categories: tuple[tuple[str, ...], ...] | None = None
    texts: tuple[str, ...] | None = None


def catalogue_of_table(
    path: Path, columns: Mapping[str, str] | None = None, form: TextFormat | None = None
) -> Catalogue:
    """The catalogue of a table of items, see `read_products`.

    Raises:
        DataError: besides those of `read_products`: an item occurs twice, or there is none.
    """
    found = read_products(path, columns or {}, form or TextFormat())
    return Catalogue(
        item_ids=np.array(found.ids, dtype=object),
        titles=found.titles,
        categories=found.categories,
        texts=found.texts,
    )


def read_items(path: Path) -> Catalogue:
    """Read a catalogue.parquet, or a table of items as text or JSON lines.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it cannot be read as one of them.
        DataError: an item twice, or none.
    """
    return catalogue_of_table(path) if path.suffix.lower() in TEXT_TABLES else Catalogue.load(path)


def read_products(path: Path, columns: Mapping[str, str], form: TextFormat) -> Products:
    """The items of a table.

    Args:
        path: of a text table, JSON lines or Parquet.
        columns: role (item, title, categories, text) -> name of its column, or its position where there is no header;
            others are found by usual names. Categories are lists, or text with "|" between them.
        form: of a text table.

    Raises:
        DataNotFoundError: there is no such file.
        MissingColumnError: it lacks a column.
        DataFormatError: it is something else, a row has another number of fields, or an item has no id.
        ConfigurationError: a role that there is not.
    """
    check_roles(columns, PRODUCT_ROLES)
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find a table of items at {path}.")
    places, cells = _cells(path, columns, form, usual=PRODUCT_ROLES, needed=("item",))
    ids = [spell_id(cell) or "" for cell in cells["item"]]
    if "" in ids:
        raise DataFormatError(f"Expected an id of every item in {path}, {places[ids.index('')]} has none.")
    titles, texts, categories = (cells.get(role) for role in ("title", "text", "categories"))
    return Products(
        ids=tuple(ids),
        titles=None if titles is None else tuple(_LINE_BREAKS.sub(" ", _text_of(cell)) for cell in titles),
        categories=None if categories is None else tuple(map(_categories, categories)),
        texts=None if texts is None else tuple(map(_text_of, texts)),
    )


def add_public_users(catalogue: Catalogue, path: Path) -> tuple[Catalogue, npt.NDArray[np.object_]]:
    """The catalogue with the histories of a table, and the ids of their users.

    Every row names a user, an item and, in the column `consent`, what the user has agreed to: histories are private
    but for those who said otherwise. Items that the catalogue lacks are left out.

    Raises:
        DataNotFoundError: there is no such file.
        MissingColumnError: it lacks a column, such as that of consent.
        DataFormatError: a row without a user, an item or consent; or no row at all.
        ConfigurationError: the catalogue has public users already.
    """
    if catalogue.public_users is not None:
        raise ConfigurationError("The catalogue has public users already. Leave public-users out.")
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find a table of public users at {path}.")
    try:
        places, cells = _cells(path, {}, TextFormat(), usual=PUBLIC_USER_ROLES, needed=PUBLIC_USER_ROLES)
    except MissingColumnError as error:
        raise MissingColumnError(
            f"{error} A table of public users has a column consent beside user and item, which says what each user "
            "has agreed to: without it the histories are private, and nothing may be read of them."
        ) from error
    spelled = {role: [spell_id(cell) or "" for cell in cells[role]] for role in ("user", "item")}
    spelled["consent"] = [_text_of(cell) for cell in cells["consent"]]
    for role, column in spelled.items():
        if "" in column:
            raise DataFormatError(
                f"Expected a {role} in every row of {path}, {places[column.index('')]} has none. Leave out who has "
                "not consented."
            )
    if not places:
        raise DataFormatError(f"Expected at least one public user in {path}, got none.")
    ids, first, number = np.unique(np.array(spelled["user"], dtype=object), return_index=True, return_inverse=True)
    rows = catalogue.rows(spelled["item"])
    of_item: list[set[int]] = [set() for _ in range(catalogue.n_items)]
    for row, user in zip(rows.tolist(), number.tolist(), strict=True):
        if row >= 0:
            of_item[row].add(user)
    users = PublicUsers(
        of_item=tuple(tuple(sorted(some)) for some in of_item),
        consent=tuple(spelled["consent"][at] for at in first.tolist()),
    )
    return replace(catalogue, public_users=users), ids


def records_of(table: TextTable) -> Iterator[tuple[int, list[bytes]]]:
    """Number of its first line and fields of each record; a field in quotes may hold line ends.

    Raises:
        DataFormatError: a record has another number of fields than the header.
    """
    with open_text(table.path, table.encoding) as (file, _):
        text = b"".join(iter(lambda: file.read(1 << 20), b""))
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    at = 1 if table.has_header else 0
    while at < len(lines):
        if lines[at]:
            fields, used = _record(lines, at, table)
            yield at + 1, fields
            at += used
        else:
            at += 1


def _record(lines: Sequence[bytes], at: int, table: TextTable) -> tuple[list[bytes], int]:
    """The fields of the record that begins in a line, and how many lines it takes."""
    if table.quotes and b'"' in lines[at] and fields_of(lines[at], table.separator) is None:
        # Only a line with a quote can close one.
        closing = (more for more in range(1, min(_MOST_LINES, len(lines) - at)) if b'"' in lines[at + more])
        for more in closing:
            whole = b"\n".join(lines[at : at + more + 1])
            if fields_of(whole, table.separator) is not None:
                fields = row_of(whole, table)
                if fields is not None:
                    return fields, more + 1
                break
            if fields_of(whole + b'"', table.separator) is None:
                # It closed where no field ends, so that no further line helps.
                break
    fields = row_of(lines[at], table)
    if fields is None:
        raise DataFormatError(
            f"Expected {table.n_fields or f'at least {table.least}'} fields in line {at + 1} of {table.path}, got "
            f"{len(lines[at].split(table.separator))}. A field with a separator in it has to stand in double quotes."
        )
    return fields, 1


def _text_of(cell: object) -> str:
    """A cell as stripped text, "" where there is none."""
    if cell is None or cell != cell:  # noqa: PLR0124  (NaN differs from itself)
        return ""
    return (decode(cell) if isinstance(cell, bytes) else str(cell)).strip()


def _cells(
    path: Path, columns: Mapping[str, str], form: TextFormat, *, usual: Sequence[str], needed: Sequence[str]
) -> tuple[list[str], dict[str, Sequence[object]]]:
    """Places of all rows for messages, and the cells by role."""
    if source_of(path) == "parquet":
        return _parquet_cells(path, columns, usual=usual, needed=needed)
    if source_of(path) == "json":
        return _json_cells(path, columns, form, usual=usual, needed=needed)
    typed = path.suffix == ".item"
    table = text_table(path, columns, form, usual=usual, needed=needed, typed_names=typed)
    records = list(records_of(table))
    cells: dict[str, Sequence[object]] = {
        role: [fields[at] for _, fields in records] for role, at in table.roles.at.items()
    }
    return [f"line {number}" for number, _ in records], cells


def _parquet_cells(
    path: Path, columns: Mapping[str, str], *, usual: Sequence[str], needed: Sequence[str]
) -> tuple[list[str], dict[str, Sequence[object]]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"Expected a table in {path}: {error}.") from error
    roles = find_roles(table.column_names, columns, place=str(path), usual=usual, needed=needed)
    cells = {role: table.column(at).to_pylist() for role, at in roles.at.items()}
    return [f"row {row}" for row in range(1, table.num_rows + 1)], cells


def _json_cells(
    path: Path, columns: Mapping[str, str], form: TextFormat, *, usual: Sequence[str], needed: Sequence[str]
) -> tuple[list[str], dict[str, Sequence[object]]]:
    roles, names = json_roles(path, columns, encoding=form.encoding, usual=usual, needed=needed)
    places: list[str] = []
    cells: dict[str, list[object]] = {role: [] for role in roles.at}
    for block in json_blocks(path, roles, names, encoding=form.encoding, block_rows=100_000):
        if not block.well_formed.all():
            line = block.numbers[int(np.flatnonzero(~block.well_formed)[0])]
            raise DataFormatError(f"Expected an object in line {line} of {path}.")
        places += [f"line {number}" for number in block.numbers]
        for role, column in block.cells.items():
            cells[role] += list(column)
    return places, dict(cells)


def _categories(cell: object) -> tuple[str, ...]:
    parts = cell if isinstance(cell, list | tuple) else _text_of(cell).split(SEPARATOR)
    return tuple(text for text in (_text_of(part) for part in parts) if text)
