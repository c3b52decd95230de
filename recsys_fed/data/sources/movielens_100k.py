"""MovieLens-100K as published: `u.data`, and beside it `u.item` and `u.genre`."""

from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.sources.item_file import ItemColumns, catalogue_of, split_fields
from recsys_fed.data.sources.source import Request, Source
from recsys_fed.data.sources.text import first_line, read_lines, read_rows
from recsys_fed.data.validation import validate
from recsys_fed.errors import DataFormatError

_NAMES = ("user", "item", "value", "time")
# id, title, release date, video release date, address; then one flag a genre.
_FIELDS_BEFORE_GENRES = 5
LICENCE = (
    "MovieLens by GroupLens: research use only, no redistribution, no endorsement; "
    "cite Harper and Konstan 2015, doi 10.1145/2827872"
)


def _ratings(path: Path) -> Path:
    return path / "u.data" if path.is_dir() else path


def _matches(path: Path) -> bool:
    ratings = _ratings(path)
    return ratings.name == "u.data" and ratings.is_file()


def _read(request: Request) -> Dataset:
    path = _ratings(request.path)
    n_fields = len(first_line(path).split("\t"))
    if n_fields != len(_NAMES):
        raise DataFormatError(
            f"Expected user, item, rating, timestamp (tabs) in row 1 of {path}, got {n_fields} fields."
        )
    frame = read_rows(path, separator="\t", names=_NAMES, use={name: name for name in _NAMES})
    interactions, report = validate(frame, source=str(path))
    columns = _read_items(path.with_name("u.item"))
    return Dataset(
        name="ml-100k",
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids, columns),
        report=report,
        note=LICENCE,
    )


def _read_items(path: Path) -> ItemColumns | None:
    if not path.is_file():
        return None
    genres = _read_genres(path.with_name("u.genre"))
    titles, categories = {}, {}
    for row, line in enumerate(read_lines(path, encoding="latin-1"), start=1):
        if not line.strip():
            continue
        fields = split_fields(line, "|", n_fields=_FIELDS_BEFORE_GENRES + len(genres), where=(path, row))
        flags = fields[_FIELDS_BEFORE_GENRES:]
        titles[fields[0]] = fields[1]
        categories[fields[0]] = tuple(genre for genre, flag in zip(genres, flags, strict=True) if flag == "1")
    return ItemColumns(titles=titles, categories=categories)


def _read_genres(path: Path) -> list[str]:
    """Genre names in the order of their flags."""
    numbered = {}
    for row, line in enumerate(read_lines(path, encoding="latin-1"), start=1):
        if not line.strip():
            continue
        name, number = split_fields(line, "|", n_fields=2, where=(path, row))
        if not number.isdigit():
            raise DataFormatError(f"Expected NAME|NUMBER in row {row} of {path}.")
        numbered[int(number)] = name
    return [numbered[number] for number in sorted(numbered)]


SOURCE = Source(name="MovieLens-100K", layout="a u.data file, or a folder with one", matches=_matches, read=_read)
