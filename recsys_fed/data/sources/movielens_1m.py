"""MovieLens-1M (and 10M) as published: `ratings.dat` and `movies.dat`, fields separated by `::`."""

from pathlib import Path

import numpy as np

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.sources.item_file import ItemColumns, catalogue_of, split_fields
from recsys_fed.data.sources.movielens_100k import LICENCE
from recsys_fed.data.sources.source import Request, Source
from recsys_fed.data.sources.text import first_line, read_lines, read_rows
from recsys_fed.data.validation import validate
from recsys_fed.errors import DataFormatError

# The C parser splits at one character: `::` gives an empty field between any two.
_GAPS = ("gap1", "gap2", "gap3")
_NAMES = ("user", "gap1", "item", "gap2", "value", "gap3", "time")


def _ratings(path: Path) -> Path:
    return path / "ratings.dat" if path.is_dir() else path


def _matches(path: Path) -> bool:
    ratings = _ratings(path)
    return ratings.name == "ratings.dat" and ratings.is_file()


def _read(request: Request) -> Dataset:
    path = _ratings(request.path)
    expected = "user::item::rating::timestamp"
    if len(first_line(path).split("::")) != 4:
        raise DataFormatError(f"Expected {expected} in row 1 of {path}.")
    frame = read_rows(path, separator=":", names=_NAMES, use={name: name for name in _NAMES})
    broken = np.flatnonzero(frame[list(_GAPS)].notna().any(axis=1))
    if len(broken):
        raise DataFormatError(f"Expected {expected} in row {broken[0] + 1} of {path}.")
    interactions, report = validate(frame.drop(columns=list(_GAPS)), source=str(path))
    movies = path.with_name("movies.dat")
    columns = read_movies(movies) if movies.is_file() else None
    return Dataset(
        name="ml-1m",
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids, columns),
        report=report,
        note=LICENCE,
    )


def read_movies(path: Path) -> ItemColumns:
    """Titles and genres by movie id from a `movies.dat` (latin-1)."""
    titles, categories = {}, {}
    for row, line in enumerate(read_lines(path, encoding="latin-1"), start=1):
        if not line.strip():
            continue
        movie, title, genres = split_fields(line, "::", n_fields=3, where=(path, row))
        titles[movie] = title
        categories[movie] = tuple(genre for genre in genres.split("|") if genre)
    return ItemColumns(titles=titles, categories=categories)


SOURCE = Source(name="MovieLens-1M", layout="a ratings.dat file, or a folder with one", matches=_matches, read=_read)
