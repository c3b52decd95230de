"""What is to be read, and how: one record for every door, made from a command line, a scenario or silo.toml.

Which column of a table is which follows from the names that were given, else from usual ones: a fact of its header
alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.data.readers._columns import Column
from recsys_fed.data.readers.cells import UNITS
from recsys_fed.errors import ConfigurationError, MissingColumnError

ROLES = ("user", "item", "value", "time", "kind", "weight", "test")
PRODUCT_ROLES = ("item", "title", "categories", "text")
PUBLIC_USER_ROLES = ("user", "item", "consent")

# The usual names of each column, compared without case, underscores, hyphens and blanks; the first that is there.
_USUAL: dict[str, tuple[str, ...]] = {
    "consent": ("consent",),
    "user": (
        "user",
        "userid",
        "uid",
        "customer",
        "customerid",
        "visitorid",
        "reviewerid",
        "memberid",
        "accountid",
        "clientid",
    ),
    "item": (
        "item",
        "itemid",
        "iid",
        "movieid",
        "productid",
        "trackid",
        "songid",
        "artistid",
        "bookid",
        "newsid",
        "articleid",
        "sku",
        "parentasin",
        "asin",
        "isbn",
        "gameid",
        "businessid",
        "contentid",
    ),
    "value": ("value", "rating", "score", "stars", "overall", "count", "plays", "playcount", "weight"),
    "time": (
        "time",
        "timestamp",
        "unixtime",
        "unixreviewtime",
        "ts",
        "datetime",
        "eventtime",
        "createdat",
        "dateadded",
        "date",
        "timerank",
    ),
    "kind": ("kind", "event", "eventtype", "eventkind", "behavior", "behaviortype", "action", "actiontype", "type"),
    "title": ("title", "name", "movietitle", "itemname", "booktitle"),
    "categories": ("categories", "category", "genres", "genre", "class"),
    "text": ("text", "description", "abstract", "overview", "plot"),
}
# Names of columns that hold places in an order.
_POSITIONS = ("timerank", "rank", "position", "order", "sequence", "seq", "step")


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Columns by their roles.

    Attributes:
        at: role -> position of its column, from 0.
        positions: whether the times are places in an order.
    """

    at: Mapping[str, int]
    positions: bool = False


def find_roles(
    names: Sequence[str],
    asked: Mapping[str, str],
    *,
    place: str,
    usual: Sequence[str] = (),
    needed: Sequence[str] = ("user", "item"),
    public: bool = True,
) -> Roles:
    """Roles of columns by their names.

    Args:
        names: of all columns, in their order.
        asked: role -> name of its column; "" means none.
        place: of the table, for messages.
        usual: roles that are found by usual names where `asked` is silent.
        needed: roles without which there is nothing to read.
        public: whether the names may stand in a message: those of a text file may be somebody's first row.

    Raises:
        MissingColumnError: a column that was asked for or is needed is not there, or stands there twice.
    """
    found: dict[str, int] = {}
    # The first of equal names.
    place_of = {_plain(there): at for at, there in reversed(list(enumerate(names)))}
    for role in (*asked, *(role for role in usual if role not in asked)):
        name = asked.get(role)
        if name is None:
            at = next((place_of[one] for one in _USUAL.get(role, ()) if one in place_of), None)
            if at is not None:
                found[role] = at
        elif name:
            found[role] = _find_column(name, names, place=place, public=public)
    missing = [role for role in needed if role not in found]
    if missing:
        raise MissingColumnError(
            f"Expected a column for {' and '.join(missing)} in {place}, got {_list_columns(names, public)}. Name it: "
            f"{_example(needed)}; by number (from 0) if the first line is no header."
        )
    time = found.get("time")
    return Roles(at=found, positions=time is not None and are_positions(names[time]))


def are_positions(name: str) -> bool:
    """Whether a column of this name holds places in an order, and no clock times."""
    return _plain(name) in _POSITIONS


def parse_numbered_roles(asked: Mapping[str, str], *, place: str, needed: Sequence[str] = ("user", "item")) -> Roles:
    """Roles of columns that are given by their positions.

    Raises:
        ConfigurationError: one is not, or one that is needed is not given.
    """
    given = {role: text for role, text in asked.items() if text}
    if not all(text.isdecimal() for text in given.values()) or not set(needed) <= set(given):
        raise ConfigurationError(
            f"Expected columns as numbers from 0 for {place}, which has no header ({_example(needed)})."
        )
    return Roles(at={role: int(text) for role, text in given.items()})


def are_numbers(asked: Mapping[str, str]) -> bool:
    """Whether all columns that were asked for are given by their positions."""
    given = [text for text in asked.values() if text]
    return bool(given) and all(text.isdecimal() for text in given)


def _find_column(name: str, names: Sequence[str], *, place: str, public: bool) -> int:
    same = [at for at, there in enumerate(names) if there == name]
    if not same and name.isdecimal() and int(name) < len(names):
        return int(name)
    if not same:
        near = get_close_matches(name, names, n=1, cutoff=0.8)
        hint = f" Did you mean {near[0]}?" if near and public else ""
        raise MissingColumnError(f"Expected the column {name} in {place}, got {_list_columns(names, public)}.{hint}")
    if len(same) > 1:
        raise MissingColumnError(
            f"Expected the column {name} once in {place}, it stands there {len(same)} times: give its position."
        )
    return same[0]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_- ")


def _list_columns(names: Sequence[str], public: bool) -> str:
    """The names; of those that may be a row of data only how many they are, and which are usual."""
    if public:
        return ", ".join(names)
    every = {name for usual in _USUAL.values() for name in usual}
    usual = [name for name in names if _plain(name) in every]
    return f"{len(names)} fields in its first line" + (f", among them {', '.join(usual)}" if usual else "")


def _example(needed: Sequence[str]) -> str:
    if "user" in needed:
        return "--columns user=NAME,item=NAME, or user = and item = under [data] of silo.toml"
    return "--columns item=NAME"


def check_roles(asked: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse a role that there is not.

    Raises:
        ConfigurationError: there is one.
    """
    unknown = [role for role in asked if role not in known]
    if unknown:
        raise ConfigurationError(f"Expected columns for {', '.join(known)}, got one for {', '.join(unknown)}.")


SOURCES = ("csv", "json", "parquet", "sqlite", "postgresql")
DATABASES = ("sqlite", "postgresql")
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "colons": "::", "blank": " "}
HEADER = ("auto", "yes", "no")
BLOCK_ROWS = 1_000_000
# Of rows in their file.
Numbers: TypeAlias = "range | npt.NDArray[np.int64]"


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How a text table is written; what is left open follows from its first line or its name, never from a row.

    Attributes:
        separator: between fields, one of SEPARATORS or any text; a blank means any run of blanks and tabs. "": by the
            header; without a header by the file's name (.csv, .tsv, .tab, .dat).
        encoding: of the file; "": a byte order mark says it, else UTF-8; a cell that is none is Windows-1252.
        header: whether the first line holds names: "yes", "no", or "auto": unless columns are given as numbers.
        lists: between several items in one cell of the item column; "": a cell holds one.
        quotes: whether fields may be in double quotes.
        n_fields: fields of a row of a file without a header; 0: as many as its columns need, or more.
    """

    separator: str = ""
    encoding: str = ""
    header: str = "auto"
    lists: str = ""
    quotes: bool = True
    n_fields: int = 0

    def __post_init__(self) -> None:
        checks.one_of(HEADER, header=self.header)
        checks.at_least(0, n_fields=self.n_fields)
        for name in ("separator", "lists"):
            text = getattr(self, name)
            object.__setattr__(self, name, SEPARATORS.get(text, text))
        if '"' in self.separator + self.lists or set(self.separator) & set("\r\n"):
            raise ConfigurationError("Expected a separator without quotes and line ends.")
        if self.encoding:
            try:
                "".encode(self.encoding)
            except (LookupError, UnicodeError) as error:
                raise ConfigurationError(f"Expected the name of an encoding, got {self.encoding!r}.") from error


_WRITTEN = ("separator", "encoding", "header", "lists")


def text_format_of(text: str) -> TextFormat:
    """Read `separator=semicolon,encoding=cp1252,header=no,lists=blank`.

    >>> text_format_of("separator=;").separator, text_format_of("separator=tab,header=no").header
    (';', 'no')

    Raises:
        ConfigurationError: it is something else.
    """
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key.strip() not in _WRITTEN or not equals or not value:
            raise ConfigurationError(
                f"Expected format as KEY=VALUE,... with a KEY of {', '.join(_WRITTEN)}, and separators as "
                f"{', '.join(SEPARATORS)} or a letter, got {part!r}."
            )
        given[key.strip()] = value
    return TextFormat(**given)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A table of interactions and what its columns mean.

    Attributes:
        source: one of SOURCES; "" is by the path's name.
        path: of a file, or of a folder of parts. url, query: of a database.
        columns: role (user, item, value, time, kind, weight, test) -> name of its column, or its position from 0 in a
            text file without a header; "" switches a role off.
        usual: whether roles that are not named are found by usual names, see `find_roles`.
        kinds: kind of event -> weight of its rows; rows of other kinds, and of weight 0, are left out. Beside a
            column of weights a row's weight is the product. That column must be named, it is never found.
        time_unit: of times that are numbers, see `cells.time_of`.
        since, until: nanoseconds since 1970; since is included, until is not.
        parameters: of the query, by name.
        format: of text tables.
        block_rows: rows that are held as cells at a time.
    """

    source: str = ""
    path: str = ""
    url: str = ""
    query: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    usual: bool = True
    kinds: Mapping[str, float] = field(default_factory=dict)
    time_unit: str = ""
    since: int | None = None
    until: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    format: TextFormat = field(default_factory=TextFormat)
    block_rows: int = BLOCK_ROWS

    def __post_init__(self) -> None:
        checks.one_of(("", *SOURCES), source=self.source)
        checks.one_of(UNITS, time_unit=self.time_unit)
        checks.at_least(1, block_rows=self.block_rows)

    @property
    def place(self) -> str:
        """The source as messages name it."""
        return self.path or self.source


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some rows, in the order of their source.

    Attributes:
        well_formed: bool [n], false where a row is no row of the table, such as a line with too many fields.
        cells: role -> the cells of the rows that are well formed.
        numbers: of each row in its file, [n]: of its line in text, else from 1.
        file: that the rows are from, where there are several.
        unit: what is numbered.
        positions: whether times are places in an order, and not clock times.
    """

    well_formed: npt.NDArray[np.bool_]
    cells: Mapping[str, Column]
    numbers: Numbers
    file: str = ""
    unit: str = "row"
    positions: bool = False

    def __len__(self) -> int:
        return len(self.well_formed)


Blocks = Iterator[Block]
