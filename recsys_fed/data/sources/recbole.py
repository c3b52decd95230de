"""RecBole's atomic files: NAME.inter with typed column names, and beside it perhaps NAME.item.

A header is `user_id:token<tab>item_id:token<tab>rating:float<tab>timestamp:float` (arXiv 2011.01731).
"""

from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.sources.item_file import ItemColumns, catalogue_of, split_fields
from recsys_fed.data.sources.source import Request, Source
from recsys_fed.data.sources.table import resolve_columns
from recsys_fed.data.sources.text import first_line, read_lines, read_rows
from recsys_fed.data.validation import validate
from recsys_fed.errors import DataFormatError

_TITLES = ("title", "movie_title", "item_name", "name")
_CATEGORIES = ("genre", "genres", "class", "categories", "category")


def _interactions_file(path: Path) -> Path | None:
    """The .inter file that a path means: itself, or the only one in a folder."""
    if path.is_dir():
        inside = sorted(path.glob("*.inter"))
        return inside[0] if len(inside) == 1 else None
    return path if path.suffix == ".inter" and path.is_file() else None


def _matches(path: Path) -> bool:
    return _interactions_file(path) is not None


def _read(request: Request) -> Dataset:
    path = _interactions_file(request.path) or request.path
    typed = first_line(path).split("\t")
    names = _untyped(typed, path)
    use = resolve_columns(names, request.columns, path=path)
    frame = read_rows(path, separator="\t", names=names, use=use, has_header=True)
    interactions, report = validate(frame, source=str(path))
    items = path.with_suffix(".item")
    return Dataset(
        name=path.stem,
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids, _read_items(items) if items.is_file() else None),
        report=report,
        note="RecBole atomic file; the licence is that of its source",
    )


def _untyped(typed: list[str], path: Path) -> list[str]:
    names = [field.rpartition(":")[0] for field in typed]
    if not all(names) or len(set(names)) != len(names):
        raise DataFormatError(
            f"Expected distinct names with types (user_id:token, item_id:token, ...) as header of {path}."
        )
    return names


def _read_items(path: Path) -> ItemColumns:
    lines = read_lines(path)
    names = _untyped(lines[0].split("\t"), path)
    if "item_id" not in names:
        raise DataFormatError(f"Expected an item_id column in {path}, got {', '.join(names)}.")
    title = next((names.index(name) for name in _TITLES if name in names), None)
    category = next((names.index(name) for name in _CATEGORIES if name in names), None)
    rows = [
        split_fields(line, "\t", n_fields=len(names), where=(path, row))
        for row, line in enumerate(lines[1:], start=2)
        if line.strip()
    ]
    item = names.index("item_id")
    return ItemColumns(
        titles={} if title is None else {row[item]: row[title] for row in rows},
        categories={} if category is None else {row[item]: tuple(row[category].split()) for row in rows},
    )


SOURCE = Source(
    name="RecBole",
    layout="a .inter file, or a folder with exactly one",
    matches=_matches,
    read=_read,
    named_columns=True,
)
