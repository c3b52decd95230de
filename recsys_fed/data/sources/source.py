"""What a file format is: how to recognise it and how to read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers.reading import Reading, TextFormat
from recsys_fed.errors import ConfigurationError


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
