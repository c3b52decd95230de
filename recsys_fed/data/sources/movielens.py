"""MovieLens as published: 100K (`u.data`), 1M and 10M (`ratings.dat`), 20M, 25M and latest (`ratings.csv`).

MovieLens-1M is also read as one Parquet table with two splits, and beside it `movies.dat` and abstracts. Its columns:
user_id, movie_id, rating, time_rank (position in the user's own order of time), and the bool columns ncf_test (the
item that the NCF paper, arXiv 1708.05031, holds out) and random90_test (a random tenth).
"""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.readers._lines import text_table
from recsys_fed.data.readers.cells import decode
from recsys_fed.data.readers.interactions import read_interactions
from recsys_fed.data.readers.products import read_products, records_of
from recsys_fed.data.readers.reading import Reading, TextFormat
from recsys_fed.data.sources.source import ItemColumns, Request, Source, catalogue_of, first_line, read_lines
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
    return _dataset("ml-1m", reading, _read_movies(movies) if movies.is_file() else None)


def _read_movies(path: Path) -> ItemColumns:
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


_NEGATIVES, _MOVIE_IDS = "ml-1m.test.negative", "ncf_item_to_movie_id.csv"
_PAIR = re.compile(r"\((\d+),(\d+)\)")


def _read_negatives(folder: Path, interactions: Interactions) -> npt.NDArray[np.int64] | None:
    """Negatives of each user as codes of `interactions.item_ids`, int64 [n_users, 99]; -1 where there is no such.

    They are those that the NCF paper (arXiv 1708.05031) published for MovieLens-1M, a folder of two files. In
    `ml-1m.test.negative` a line is `(user,positive)` and 99 items, tabs between them, in the paper's own numbers; its
    user u is user u + 1 of MovieLens. `ncf_item_to_movie_id.csv` maps its items to movies.

    None where the folder lacks the files.

    Raises:
        DataFormatError: a line or a number is not what the format says.
    """
    if not ((folder / _NEGATIVES).is_file() and (folder / _MOVIE_IDS).is_file()):
        return None
    code_of_item = _codes_of_items(folder / _MOVIE_IDS, interactions)
    row_of_user = {str(name): row for row, name in enumerate(interactions.user_ids.tolist())}
    table: npt.NDArray[np.int64] | None = None
    for number, line in enumerate(read_lines(folder / _NEGATIVES), start=1):
        if not line.strip():
            continue
        user, items = _negatives_of_line(
            line, where=f"row {number} of {folder / _NEGATIVES}", n_items=len(code_of_item)
        )
        if table is None:
            table = np.full((interactions.n_users, len(items)), -1, dtype=np.int64)
        if len(items) != table.shape[1]:
            raise DataFormatError(
                f"Expected {table.shape[1]} negatives in row {number} of {folder / _NEGATIVES}, got {len(items)}."
            )
        row = row_of_user.get(str(user + 1))
        if row is not None:
            table[row] = code_of_item[items]
    return table


def _negatives_of_line(line: str, *, where: str, n_items: int) -> tuple[int, list[int]]:
    first, *rest = line.split()
    pair = _PAIR.fullmatch(first)
    if pair is None or not rest or not all(text.isdecimal() and int(text) < n_items for text in rest):
        raise DataFormatError(f"Expected `(user,item) item item ...` with items below {n_items} in {where}.")
    return int(pair[1]), [int(text) for text in rest]


def _codes_of_items(path: Path, interactions: Interactions) -> npt.NDArray[np.int64]:
    """Code of each of the paper's items; -1 for a movie without interactions."""
    code_of_movie = {str(name): code for code, name in enumerate(interactions.item_ids.tolist())}
    rows = list(csv.DictReader(read_lines(path)))
    codes = np.full(len(rows), -1, dtype=np.int64)
    for row in rows:
        item, movie = row.get("ncf_item", ""), row.get("movie_id", "")
        if not item.isdecimal() or int(item) >= len(rows):
            raise DataFormatError(f"Expected the columns ncf_item and movie_id, items from 0, in {path}.")
        codes[int(item)] = code_of_movie.get(movie, -1)
    return codes


_COLUMNS = {"user": "user_id", "item": "movie_id", "value": "rating", "time": "time_rank"}
_SPLITS = {"ncf": "ncf_test", "random90": "random90_test"}


def _ratings(path: Path) -> Path:
    return path / "ratings.parquet" if path.is_dir() else path


def _is_parquet(path: Path) -> bool:
    ratings = _ratings(path)
    if ratings.name != "ratings.parquet" or not ratings.is_file():
        return False
    try:
        return set(_COLUMNS.values()) <= set(pq.read_schema(ratings).names)
    except (pa.ArrowException, OSError):
        return False


def _read_parquet(request: Request) -> Dataset:
    path = _ratings(request.path)
    columns = _COLUMNS if request.split is None else _COLUMNS | {"test": _SPLITS[request.split]}
    interactions, report, is_test = read_interactions(
        Reading(source="parquet", path=str(path), columns=columns, usual=False)
    )
    return Dataset(
        name="ml-1m",
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids, _read_parquet_items(path.parent)),
        report=report,
        is_test=is_test,
        test_negatives=_read_negatives(path.parent / "ncf", interactions) if request.split == "ncf" else None,
        note=LICENCE,
    )


def _read_parquet_items(folder: Path) -> ItemColumns | None:
    movies = folder / "movies.dat"
    if not movies.is_file():
        return None
    columns = _read_movies(movies)
    abstracts = folder / "dbpedia_abstracts.json"
    return replace(columns, texts=_read_texts(abstracts)) if abstracts.is_file() else columns


def _read_texts(path: Path) -> dict[str, str]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataFormatError(f"Expected JSON in {path}: {error}") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise DataFormatError(f"Expected an object of movie id -> text in {path}.")
    return texts


_PARQUET_SOURCE = Source(
    name="MovieLens-1M with splits",
    layout="a ratings.parquet with user_id, movie_id, rating, time_rank, or a folder with one",
    matches=_is_parquet,
    read=_read_parquet,
    splits=tuple(_SPLITS),
)

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
    _PARQUET_SOURCE,
)
