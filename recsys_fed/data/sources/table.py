"""Any table with named columns: CSV, TSV or Parquet."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.sources.item_file import catalogue_of
from recsys_fed.data.sources.parquet import column_names, read_columns
from recsys_fed.data.sources.source import Request, Source
from recsys_fed.data.sources.text import first_line, read_rows
from recsys_fed.data.validation import validate
from recsys_fed.errors import ConfigurationError, DataFormatError

_TEXT = (".csv", ".tsv", ".tab", ".txt")
PARQUET = (".parquet", ".pq")
_SEPARATORS = (",", "\t", ";", "|")

# The usual names of each column, compared without case, underscores, hyphens and blanks.
_USUAL = {
    "user": ("user", "userid", "uid", "customerid", "visitorid"),
    "item": ("item", "itemid", "iid", "movieid", "productid", "trackid", "bookid", "isbn"),
    "value": ("value", "rating", "score", "count", "plays"),
    "time": ("time", "timestamp", "unixtime", "ts", "timerank"),
}


def resolve_columns(there: Sequence[str], asked: Mapping[str, str], *, path: Path) -> dict[str, str]:
    """The column of user, item, value and time: the one asked for, else a usual one that is there.

    Raises:
        ConfigurationError: `asked` has a key that is none of the four.
        DataFormatError: user or item cannot be found, or a column asked for is not there.
    """
    unknown = [role for role in asked if role not in _USUAL]
    if unknown:
        raise ConfigurationError(f"Expected columns for {', '.join(_USUAL)}, got one for {', '.join(unknown)}.")
    plain = {_plain(name): name for name in reversed(there)}
    usual = {role: next((plain[name] for name in names if name in plain), None) for role, names in _USUAL.items()}
    found = {role: asked.get(role, usual[role]) for role in _USUAL}
    columns = {role: name for role, name in found.items() if name is not None}
    missing = [columns.get(role, f"one for {role}") for role in _USUAL if columns.get(role) not in there]
    missing = [name for name in missing if name not in ("one for value", "one for time")]
    if missing:
        raise DataFormatError(
            f"Expected the columns {', '.join(missing)} in {path}, got {_listed(there)}. "
            "Name them: user=NAME,item=NAME[,value=NAME][,time=NAME]."
        )
    return columns


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_- ")


def _listed(names: Sequence[str]) -> str:
    """The names, unless they look like a first row of data, which must not show up in a message."""
    if any(name.strip().replace(".", "", 1).isdigit() for name in names):
        return f"{len(names)} fields that look like data: a first row with names is missing"
    return ", ".join(names)


def _matches(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _TEXT + PARQUET


def _read(request: Request) -> Dataset:
    path = request.path
    if path.suffix.lower() in PARQUET:
        frame = read_columns(path, resolve_columns(column_names(path), request.columns, path=path))
    else:
        header = first_line(path)
        separator = max(_SEPARATORS, key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
        if len(set(names)) != len(names):
            raise DataFormatError(f"Expected distinct column names in {path}, got {_listed(names)}.")
        use = resolve_columns(names, request.columns, path=path)
        frame = read_rows(path, separator=separator, names=names, use=use, has_header=True, quoted=True)
    interactions, report = validate(frame, source=str(path))
    return Dataset(
        name=path.stem,
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids),
        report=report,
        note="a table of the user's own",
    )


SOURCE = Source(
    name="table",
    layout="a .csv, .tsv, .txt (with a header) or .parquet file with user and item columns",
    matches=_matches,
    read=_read,
    named_columns=True,
)
