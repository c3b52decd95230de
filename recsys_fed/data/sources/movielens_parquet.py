"""MovieLens-1M as one Parquet table with two splits, and beside it `movies.dat` and abstracts.

Columns: user_id, movie_id, rating, time_rank (position in the user's own order of time), and the bool columns
ncf_test (the item that the NCF paper, arXiv 1708.05031, holds out) and random90_test (a random tenth).
"""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers.interactions import read_interactions
from recsys_fed.data.readers.reading import Reading
from recsys_fed.data.sources.item_file import ItemColumns, catalogue_of
from recsys_fed.data.sources.movielens import LICENCE, read_movies
from recsys_fed.data.sources.ncf_negatives import read_negatives
from recsys_fed.data.sources.source import Request, Source
from recsys_fed.errors import DataFormatError

_COLUMNS = {"user": "user_id", "item": "movie_id", "value": "rating", "time": "time_rank"}
_SPLITS = {"ncf": "ncf_test", "random90": "random90_test"}


def _ratings(path: Path) -> Path:
    return path / "ratings.parquet" if path.is_dir() else path


def _matches(path: Path) -> bool:
    ratings = _ratings(path)
    if ratings.name != "ratings.parquet" or not ratings.is_file():
        return False
    try:
        return set(_COLUMNS.values()) <= set(pq.read_schema(ratings).names)
    except (pa.ArrowException, OSError):
        return False


def _read(request: Request) -> Dataset:
    path = _ratings(request.path)
    columns = _COLUMNS if request.split is None else _COLUMNS | {"test": _SPLITS[request.split]}
    interactions, report, is_test = read_interactions(
        Reading(source="parquet", path=str(path), columns=columns, usual=False)
    )
    return Dataset(
        name="ml-1m",
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids, _read_items(path.parent)),
        report=report,
        is_test=is_test,
        test_negatives=read_negatives(path.parent / "ncf", interactions) if request.split == "ncf" else None,
        note=LICENCE,
    )


def _read_items(folder: Path) -> ItemColumns | None:
    movies = folder / "movies.dat"
    if not movies.is_file():
        return None
    columns = read_movies(movies)
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


SOURCE = Source(
    name="MovieLens-1M with splits",
    layout="a ratings.parquet with user_id, movie_id, rating, time_rank, or a folder with one",
    matches=_matches,
    read=_read,
    splits=tuple(_SPLITS),
)
