"""MovieLens-1M as one Parquet table with two splits, and beside it `movies.dat` and abstracts.

Columns: user_id, movie_id, rating, time_rank (position in the user's own order of time), and the bool columns
ncf_test (the item that the NCF paper, arXiv 1708.05031, holds out) and random90_test (a random tenth).
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.sources.item_file import ItemColumns, catalogue_of
from recsys_fed.data.sources.movielens_1m import read_movies
from recsys_fed.data.sources.movielens_100k import LICENCE
from recsys_fed.data.sources.ncf_negatives import read_negatives
from recsys_fed.data.sources.parquet import column_names, read_columns
from recsys_fed.data.sources.source import Request, Source
from recsys_fed.data.validation import validate
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
        return set(_COLUMNS.values()) <= set(column_names(ratings))
    except DataFormatError:
        return False


def _read(request: Request) -> Dataset:
    path = _ratings(request.path)
    wanted = dict(_COLUMNS)
    if request.split is not None:
        wanted["is_test"] = _SPLITS[request.split]
    frame = read_columns(path, wanted)
    interactions, report = validate(frame, source=str(path))
    is_test = frame["is_test"].to_numpy(dtype=bool)[report.kept] if "is_test" in frame else None
    return Dataset(
        name="ml-1m",
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids, _read_items(path.parent)),
        report=report,
        is_test=None if is_test is None else np.asarray(is_test, dtype=bool),
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
