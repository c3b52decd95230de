"""What is to be read, and how: one record for every door, made from a command line, a scenario or silo.toml."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.data.readers.cells import UNITS
from recsys_fed.data.readers.columns import Column
from recsys_fed.errors import ConfigurationError

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
        columns: role (user, item, value, time, kind, test) -> name of its column, or its position from 0 in a text
            file without a header; "" switches a role off.
        usual: whether roles that are not named are found by usual names, see `roles`.
        kinds: kind of event -> weight of its rows; rows of other kinds, and of weight 0, are left out.
        time_unit: of times that are numbers, see `cells.time_of`.
        since, until: nanoseconds since 1970; since is included, until is not.
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
