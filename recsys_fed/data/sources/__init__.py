"""File formats of interactions: how each is read, and the list in which they are tried.

A new format is a `Source` and its name in the list, or an entry point `recsys_fed.sources` of a package of its own.
"""

from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.sources import movielens, recbole, ultragcn
from recsys_fed.data.sources.source import Request, Source, check_request
from recsys_fed.data.sources.table import SQLITE, TABLE
from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.extensions import extension_names, load_extension

# The first that matches reads: special layouts before the general table.
SOURCES: tuple[Source, ...] = (
    *movielens.SOURCES,
    ultragcn.SOURCE,
    recbole.SOURCE,
    SQLITE,
    TABLE,
)


GROUP = "recsys_fed.sources"


def detect(path: Path) -> Source | None:
    """The format of a file or folder, or None if it is none of them; those of this library come first."""
    own = next((source for source in SOURCES if source.matches(path)), None)
    if own is not None:
        return own
    return next((source for source in map(load_source, extension_names(GROUP)) if source.matches(path)), None)


def load_source(name: str) -> Source:
    """The format that somebody brings under a name.

    Raises:
        ConfigurationError: there is none, or it is no `Source`.
    """
    found = load_extension(GROUP, name)
    if not isinstance(found, Source):
        raise ConfigurationError(f"Expected a Source for {name!r}, got {found!r}.")
    return found


def read(request: Request, source: Source | None = None) -> Dataset:
    """Read a file or folder, in the format `source` or whatever format it is.

    Raises:
        DataFormatError: the format is unknown, or the content is not what the format says.
        ConfigurationError: the request names a split or columns that the format does not have.
    """
    source = source or detect(request.path)
    if source is None:
        known = "; ".join(f"{source.name}: {source.layout}" for source in SOURCES)
        raise DataFormatError(f"Expected {request.path} to be one of these formats, it is none. {known}.")
    check_request(source, request)
    return source.read(request)


__all__ = ["SOURCES", "Request", "Source", "detect", "load_source", "read"]
