"""The three doors to interactions: a simulation, a silo in memory and a silo on disk, and what each of them gives."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import columns_of, kinds_of
from recsys_fed.data.interactions import MISSING_TIME, id_array
from recsys_fed.data.locate import open_dataset
from recsys_fed.data.readers.blocks import blocks_of, source_of, usual_columns
from recsys_fed.data.readers.interactions import interactions_of
from recsys_fed.data.readers.reading import Reading, text_format_of
from recsys_fed.data.silo import silo_dataset
from recsys_fed.errors import DataFormatError
from recsys_fed.models.histories import histories_of
from recsys_fed.silo.interactions import read_silo_data
from recsys_fed.silo.on_disk import read_stored_data
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import DataSettings

PSEUDONYMS = Pseudonyms(SiloSecret.generate())
READS = frozenset({"order", "time", "value", "weight"})
ROLES = ("user", "item", "value", "time", "kind")


class Entry(NamedTuple):
    """One interaction; None where there is no such signal, or it has none."""

    item: str
    time: int | None = None
    value: float | None = None
    weight: float | None = None


class Given(NamedTuple):
    """What a door gives: pseudonym -> entries from the earliest on, the bytes of the same, and the account.

    Without `ordered` there is no order: entries stand in that of the catalogue.
    """

    ordered: bool
    histories: Mapping[str, list[Entry]]
    bits: Mapping[str, bytes]
    n_rows: int
    n_kept: int
    rules: Mapping[str, int]
    notes: Mapping[str, int]

    def of(self, user: str) -> list[Entry]:
        """The entries of a user, by the id."""
        return self.histories[PSEUDONYMS.of(user)]

    def items_of(self, user: str) -> list[str]:
        """The items of a user, from the earliest on."""
        return [entry.item for entry in self.of(user)]

    def users(self, *ids: str) -> bool:
        """Whether these users are there, and no others."""
        return set(self.histories) == set(map(PSEUDONYMS.of, ids))


def through_all(
    path: Path, *, columns: str = "", kinds: str = "", form: str = "", folder: Path, block_rows: int = 1000
) -> Given:
    """What all three doors give, which must be the same; settings as on the command line, `folder` for blocks."""
    settings = silo_settings(path, columns=columns, kinds=kinds, form=form)
    simulated, catalogue = in_simulation(path, columns=columns, kinds=kinds, form=form, timed="time" in settings)
    assert simulated.n_kept == sum(map(len, simulated.histories.values()))
    for blocks in ("", str(folder)):
        data = DataSettings(**settings, blocks=blocks, block_rows=block_rows)
        found = in_silo(data, catalogue)
        assert found == simulated, f"{found} {'on disk' if blocks else 'in memory'}, {simulated} in a simulation"
    return simulated


def silo_settings(path: Path, *, columns: str = "", kinds: str = "", form: str = "") -> dict:
    """Keys of [data] for the columns that a simulation finds."""
    named, counted, text = columns_of(columns), kinds_of(kinds), text_format_of(form)
    source = source_of(path)
    if not any(name.isdecimal() for name in named.values()):
        asked = Reading(source=source, path=str(path), columns=named, kinds=counted, format=text)
        named = usual_columns(asked)
    named = {role: name for role, name in named.items() if name}
    return {"source": source, "path": str(path), "format": form, "kinds": counted, **named}


def in_simulation(
    path: Path, *, columns: str = "", kinds: str = "", form: str = "", timed: bool
) -> tuple[Given, Catalogue]:
    """By the door of simulate, compare, audit and the service; and the items that occur."""
    named, counted, text = columns_of(columns), kinds_of(kinds), text_format_of(form)
    try:
        dataset = open_dataset(str(path), columns=named, kinds=counted, form=text)
        interactions, report, catalogue = dataset.interactions, dataset.report, dataset.catalogue
    except DataFormatError as error:
        if "none is left" not in str(error):
            raise
        reading = Reading(path=str(path), columns=named, kinds=counted, format=text)
        interactions, report, _ = interactions_of(blocks_of(reading), reading, may_be_empty=True)
        catalogue = Catalogue(item_ids=id_array(["nothing"]))
    if timed and interactions.time is None:
        # A simulation drops a column in which nobody has a time; in a silo that would follow from its rows.
        interactions = replace(interactions, time=np.full(len(interactions), MISSING_TIME))
    there = silo_dataset(interactions, catalogue, reads=READS)
    found = histories_of(there.histories, signals=there.signals)
    users = list(map(PSEUDONYMS.of, interactions.user_ids.tolist()))
    return _given(found, users, catalogue, report), catalogue


def in_silo(data: DataSettings, catalogue: Catalogue) -> Given:
    """By the door of a deployed silo, in memory or on disk."""
    read = read_stored_data if data.blocks else read_silo_data
    silo = read(data, catalogue, PSEUDONYMS, reads=READS)
    assert silo.unknown_items == silo.short == 0
    return _given(silo.histories(), silo.users.tolist(), catalogue, silo.report)


def _given(histories, users, catalogue, report) -> Given:
    entries, bits, ordered = {}, {}, False
    rows = iter(users)
    for block in histories.blocks():
        ordered |= block.signals is not None and block.signals.rank is not None
        for first, last in pairwise(block.starts.tolist()):
            user = next(rows)
            entries[user], bits[user] = _entries(block, first, last, catalogue)
    assert next(rows, None) is None
    rules, notes = ({found.rule: found.count for found in some} for some in (report.findings, report.notes))
    assert report.n_rows == report.n_kept + sum(rules.values())
    return Given(ordered and bool(entries), entries, bits, report.n_rows, report.n_kept, rules, notes)


def _entries(block, first, last, catalogue) -> tuple[list[Entry], bytes]:
    columns = {} if block.signals is None else block.signals.columns()
    some = {name: column[first:last].numpy() for name, column in columns.items()}
    items = block.items[first:last].numpy()
    order = np.argsort(some["rank"]) if "rank" in some else np.arange(len(items))
    rows = [
        Entry(
            item=str(catalogue.item_ids[items[at]]),
            time=_none(some, "time", at, MISSING_TIME),
            value=_none(some, "value", at),
            weight=_none(some, "weight", at),
        )
        for at in order.tolist()
    ]
    return rows, items.astype("<i4").tobytes() + b"".join(some[name].tobytes() for name in sorted(some))


def _none(columns, name, at, missing=None):
    if name not in columns or columns[name][at] == missing or columns[name][at] != columns[name][at]:
        return None
    return columns[name][at].item()
