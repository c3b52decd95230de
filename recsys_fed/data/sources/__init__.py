"""File formats of interactions: how each is read, and the list in which they are tried.

A new format is a `Source` and its name in the list.
"""

from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.sources import movielens, recbole, ultragcn
from recsys_fed.data.sources.source import Request, Source, check_request
from recsys_fed.data.sources.table import SQLITE, TABLE
from recsys_fed.errors import DataFormatError

# The first that matches reads: special layouts before the general table.
SOURCES: tuple[Source, ...] = (
    *movielens.SOURCES,
    ultragcn.SOURCE,
    recbole.SOURCE,
    SQLITE,
    TABLE,
)


def detect(path: Path) -> Source | None:
    """The format of a file or folder, or None if it is none of them."""
    return next((source for source in SOURCES if source.matches(path)), None)


def read(request: Request) -> Dataset:
    """Read a file or folder in whatever format it is.

    Raises:
        DataFormatError: the format is unknown, or the content is not what the format says.
        ConfigurationError: the request names a split or columns that the format does not have.
    """
    source = detect(request.path)
    if source is None:
        known = "; ".join(f"{source.name}: {source.layout}" for source in SOURCES)
        raise DataFormatError(f"Expected {request.path} to be one of these formats, it is none. {known}.")
    check_request(source, request)
    return source.read(request)


__all__ = ["SOURCES", "Request", "Source", "detect", "read"]
