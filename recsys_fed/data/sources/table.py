"""Any table with columns for user and item: text, JSON lines, Parquet; a file, or a folder of parts."""

from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers.blocks import source_of
from recsys_fed.data.readers.interactions import read_interactions
from recsys_fed.data.sources.item_file import catalogue_of
from recsys_fed.data.sources.source import Request, Source, reading_of


def _matches(path: Path) -> bool:
    return path.exists() and bool(source_of(path))


def _read(request: Request) -> Dataset:
    path = request.path
    interactions, report, is_test = read_interactions(reading_of(request, path=path, source=source_of(path)))
    return Dataset(
        name=path.name.partition(".")[0],
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids),
        report=report,
        is_test=is_test,
        note="a table of the user's own",
    )


SOURCE = Source(
    name="table",
    layout="a .csv, .tsv, .tab, .dat, .txt, .jsonl (each perhaps .gz or .zst) or .parquet file with columns for user "
    "and item, or a folder of such files",
    matches=_matches,
    read=_read,
    named_columns=True,
)
