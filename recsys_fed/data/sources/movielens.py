"""MovieLens as published: 100K (`u.data`), 1M and 10M (`ratings.dat`), 20M, 25M and latest (`ratings.csv`)."""

from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers.ids import decode
from recsys_fed.data.readers.interactions import read_interactions
from recsys_fed.data.readers.lines import text_table
from recsys_fed.data.readers.products import read_products, records_of
from recsys_fed.data.readers.reading import Reading, TextFormat
from recsys_fed.data.sources.item_file import ItemColumns, catalogue_of
from recsys_fed.data.sources.source import Request, Source
from recsys_fed.data.sources.text import first_line, read_lines
from recsys_fed.errors import DataError, DataFormatError

LICENCE = (
    "MovieLens by GroupLens: research use only, no redistribution, no endorsement; "
    "cite Harper and Konstan 2015, doi 10.1145/2827872"
)
_NUMBERED = {"user": "0", "item": "1", "value": "2", "time": "3"}
_TABS = TextFormat(separator="\t", header="no", quotes=False, n_fields=4)
_COLONS = TextFormat(separator="::", header="no", quotes=False, n_fields=4)
_MOVIES = TextFormat(separator="::", header="no", quotes=False, n_fields=3)
# id, title, release date, video release date, address; then one flag a genre.
_FIELDS_BEFORE_GENRES = 5
_NO_GENRES = "(no genres listed)"


def _dataset(name: str, reading: Reading, items: ItemColumns | None) -> Dataset:
    interactions, report, _ = read_interactions(reading)
    catalogue = catalogue_of(interactions.item_ids, items)
    return Dataset(name=name, interactions=interactions, catalogue=catalogue, report=report, note=LICENCE)


def _read_100k(request: Request) -> Dataset:
    path = _inside(request.path, "u.data")
    reading = Reading(source="csv", path=str(path), columns=_NUMBERED, usual=False, format=_TABS)
    return _dataset("ml-100k", reading, _read_flagged_items(path.with_name("u.item")))


def _read_flagged_items(path: Path) -> ItemColumns | None:
    if not path.is_file():
        return None
    genres = _read_genres(path.with_name("u.genre"))
    n_fields = _FIELDS_BEFORE_GENRES + len(genres)
    form = TextFormat(separator="|", header="no", quotes=False, n_fields=n_fields)
    titles, categories = {}, {}
    for _, fields in records_of(text_table(path, {"item": "0"}, form, needed=("item",))):
        item, title, *rest = map(decode, fields[:n_fields])
        titles[item] = title
        flags = rest[_FIELDS_BEFORE_GENRES - 2 :]
        categories[item] = tuple(genre for genre, flag in zip(genres, flags, strict=True) if flag == "1")
    return ItemColumns(titles=titles, categories=categories)


def _read_genres(path: Path) -> list[str]:
    """Genre names in the order of their flags."""
    numbered = {}
    for row, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, _, number = line.partition("|")
        if not number.isdecimal():
            raise DataFormatError(f"Expected NAME|NUMBER in line {row} of {path}.")
        numbered[int(number)] = name
    return [numbered[number] for number in sorted(numbered)]


def _read_dat(request: Request) -> Dataset:
    path = _inside(request.path, "ratings.dat")
    movies = path.with_name("movies.dat")
    reading = Reading(source="csv", path=str(path), columns=_NUMBERED, usual=False, format=_COLONS)
    return _dataset("ml-1m", reading, read_movies(movies) if movies.is_file() else None)


def read_movies(path: Path) -> ItemColumns:
    """Titles and genres by movie id from a `movies.dat`, Latin-1 (1M) or UTF-8 (10M)."""
    return _item_columns(path, {"item": "0", "title": "1", "categories": "2"}, _MOVIES)


def _read_csv(request: Request) -> Dataset:
    path = request.path / "ratings.csv"
    columns = {"user": "userId", "item": "movieId", "value": "rating", "time": "timestamp"}
    reading = Reading(source="csv", path=str(path), columns=columns, usual=False)
    items = _item_columns(path.with_name("movies.csv"), {"item": "movieId"}, TextFormat())
    return _dataset(request.path.name, reading, items)


def _item_columns(path: Path, columns: dict[str, str], form: TextFormat) -> ItemColumns:
    found = read_products(path, columns, form)
    kept = [tuple(genre for genre in genres if genre != _NO_GENRES) for genres in found.categories or ()]
    return ItemColumns(
        titles=dict(zip(found.ids, found.titles or (), strict=False)),
        categories=dict(zip(found.ids, kept, strict=False)),
    )


def _inside(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path


def _is_100k(path: Path) -> bool:
    ratings = _inside(path, "u.data")
    return ratings.name == "u.data" and ratings.is_file()


def _is_dat(path: Path) -> bool:
    ratings = _inside(path, "ratings.dat")
    try:
        # Others have a file of that name, too.
        return ratings.name == "ratings.dat" and ratings.is_file() and "::" in (first_line(ratings) or "::")
    except DataError:
        return False


def _is_csv(path: Path) -> bool:
    return path.is_dir() and (path / "ratings.csv").is_file() and (path / "movies.csv").is_file()


SOURCES = (
    Source(name="MovieLens-100K", layout="a u.data file, or a folder with one", matches=_is_100k, read=_read_100k),
    Source(
        name="MovieLens-1M, -10M", layout="a ratings.dat file, or a folder with one", matches=_is_dat, read=_read_dat
    ),
    Source(
        name="MovieLens-20M, -25M, latest",
        layout="a folder with ratings.csv and movies.csv",
        matches=_is_csv,
        read=_read_csv,
    ),
)
