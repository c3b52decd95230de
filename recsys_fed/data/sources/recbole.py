"""RecBole's atomic files: NAME.inter with typed column names, and beside it perhaps NAME.item.

A header is `user_id:token<tab>item_id:token<tab>rating:float<tab>timestamp:float` (arXiv 2011.01731).
"""

from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers._lines import text_table
from recsys_fed.data.readers.blocks import ATOMIC
from recsys_fed.data.readers.cells import decode
from recsys_fed.data.readers.interactions import read_interactions
from recsys_fed.data.readers.products import records_of
from recsys_fed.data.readers.reading import Reading
from recsys_fed.data.sources.source import ItemColumns, Request, Source, catalogue_of, first_line, reading_of
from recsys_fed.errors import MissingColumnError


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
    reading = reading_of(request, path=path, source="csv", form=ATOMIC)
    interactions, report, is_test = read_interactions(reading)
    items = path.with_suffix(".item")
    return Dataset(
        name=path.stem,
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids, _read_items(items, reading) if items.is_file() else None),
        report=report,
        is_test=is_test,
        note="RecBole atomic file; the licence is that of its source",
    )


def _read_items(path: Path, reading: Reading) -> ItemColumns | None:
    """Titles and categories from the .item file, whose items stand in a column of the same or of a usual name."""
    roles = ("title", "categories")
    try:
        table = text_table(
            path, _named_item(path, reading), ATOMIC, usual=("item", *roles), needed=("item",), typed_names=True
        )
    except MissingColumnError:
        return None
    item, (title, categories) = table.roles.at["item"], (table.roles.at.get(role) for role in roles)
    rows = [[decode(field).strip() for field in fields] for _, fields in records_of(table)]
    return ItemColumns(
        titles={} if title is None else {row[item]: row[title] for row in rows},
        categories={} if categories is None else {row[item]: tuple(row[categories].split()) for row in rows},
    )


def _named_item(path: Path, reading: Reading) -> dict[str, str]:
    name = reading.columns.get("item", "")
    there = [field.rpartition(":")[0] for field in first_line(path).split("\t")]
    return {"item": name} if name in there else {}


SOURCE = Source(
    name="RecBole",
    layout="a .inter file, or a folder with exactly one",
    matches=_matches,
    read=_read,
    named_columns=True,
)
