"""What a file format is: how to recognise it and how to read it, with lines and item columns that formats share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers._lines import LONGEST_LINE, open_text
from recsys_fed.data.readers.cells import decode
from recsys_fed.data.readers.reading import Reading, TextFormat
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError


def read_lines(path: Path) -> list[str]:
    """All lines of a text file that is not empty, without their ends (LF or CRLF).

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is empty or binary.
    """
    if not path.is_file():
        raise DataNotFoundError(f"There is no file at {path}.")
    with open_text(path, "") as (file, _):
        text = b"".join(iter(lambda: file.read(1 << 20), b""))
    if not text.strip() or b"\0" in text:
        raise DataFormatError(f"Expected text in {path}, got {'binary data' if text.strip() else 'an empty file'}.")
    return [decode(line.removesuffix(b"\r")) for line in text.removesuffix(b"\n").split(b"\n")]


def first_line(path: Path) -> str:
    """The first line of a file, without its end; "" where there is none."""
    with open_text(path, "") as (file, _):
        return decode(file.readline(LONGEST_LINE).rstrip(b"\r\n"))


@dataclass(frozen=True, kw_only=True)
class ItemColumns:
    """What an item file says: by item id, its title, categories and text."""

    titles: dict[str, str] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def catalogue_of(item_ids: npt.NDArray[np.object_], columns: ItemColumns | None = None) -> Catalogue:
    """The catalogue of the items that occur in a whole data set, in the order of `item_ids` (id order).

    It looks at all interactions, which a simulation may. An item that the item file lacks has an empty
    title, no category and an empty text; a column that the file lacks altogether stays None.
    """
    known = columns or ItemColumns()
    ids = item_ids.tolist()
    return Catalogue(
        item_ids=item_ids,
        titles=tuple(known.titles.get(item, "") for item in ids) if known.titles else None,
        categories=tuple(known.categories.get(item, ()) for item in ids) if known.categories else None,
        texts=tuple(known.texts.get(item, "") for item in ids) if known.texts else None,
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be read.

    Attributes:
        path: file or folder.
        split: name of one of the splits that come with the source, or None.
        columns: role -> name of its column, where it is not a usual one; see `Reading`.
        kinds: kind of event -> weight; the others are left out.
        format: of text tables.
    """

    path: Path
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, float] = field(default_factory=dict)
    format: TextFormat = field(default_factory=TextFormat)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file format.

    Attributes:
        name: short name for messages.
        layout: what a file or folder of this format looks like, in a few words.
        matches: whether a path is of this format; cheap, raises nothing.
        read: reads it; raises DataFormatError where the content is not what the format says.
        splits: names of the splits that may be chosen.
        named_columns: whether the request may name columns.
        any_split: whether the reading itself says which names may stand behind the #.
    """

    name: str
    layout: str
    matches: Callable[[Path], bool]
    read: Callable[[Request], Dataset]
    splits: tuple[str, ...] = ()
    named_columns: bool = False
    any_split: bool = False


def reading_of(request: Request, *, path: Path, source: str, form: TextFormat | None = None) -> Reading:
    """How a table is read that was asked for; `form` is a layout's own."""
    return Reading(
        source=source, path=str(path), columns=request.columns, kinds=request.kinds, format=form or request.format
    )


def check_request(source: Source, request: Request) -> None:
    """Refuse a split or columns that the format does not have.

    Raises:
        ConfigurationError: says what the format has.
    """
    if request.split is not None and request.split not in source.splits and not source.any_split:
        there = f"one of {', '.join(source.splits)}" if source.splits else "no #split"
        raise ConfigurationError(f"Expected {there} for {request.path} ({source.name}), got {request.split!r}.")
    given = [*request.columns, *(f"kind {kind}" for kind in request.kinds)]
    given += [] if request.format == TextFormat() else ["a format"]
    if given and not source.named_columns:
        raise ConfigurationError(
            f"Expected no columns, kinds and format for {request.path}, whose layout ({source.name}) has fixed "
            f"columns, got {', '.join(given)}. Leave them out."
        )
