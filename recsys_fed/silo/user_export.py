"""Everything that a silo holds of one of its users, for that user: in its source, its state and its service."""

from pathlib import Path
from typing import Any

import numpy as np

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.readers.blocks import blocks_of
from recsys_fed.data.readers.cells import MISSING
from recsys_fed.data.readers.rows import Rows, rows_of
from recsys_fed.errors import DataNotFoundError
from recsys_fed.serving.store import FeedbackStore, open_store
from recsys_fed.silo.opt_out import Participants, service_of
from recsys_fed.silo.secret import NOBODY, Pseudonyms, SiloSecret
from recsys_fed.silo.settings import SiloSettings
from recsys_fed.silo.state import StateFolder


def user_record(settings: SiloSettings, secret: SiloSecret, user: str) -> dict[str, Any]:
    """All that the silo holds of a user, as JSON values; for that user and nobody else.

    Args:
        settings, secret: of the silo.
        user: the id as in the silo's data.

    Returns:
        user, pseudonym, takes_part; `source`: the rows that can be read, with the item, and value, time and weight
        where there are any; `state`: of each model that is kept the user's vector and history (items in order of the
        catalogue); `service`: events, exposures, and whether the user was forgotten.

    Raises:
        DataError, KeyFileError: something cannot be read; nothing is left out silently.
    """
    pseudonym = Pseudonyms(secret).of(user)
    return {
        "silo": settings.name,
        "user": user,
        "pseudonym": pseudonym,
        "takes_part": Participants.of_silo(settings, secret).of(user) != NOBODY,
        "source": _source_rows(settings, user),
        "state": StateFolder(Path(settings.state), secret).user_record(pseudonym, Catalogue.load(settings.catalogue)),
        "service": _service_record(settings, user),
    }


def _source_rows(settings: SiloSettings, user: str) -> list[dict[str, Any]]:
    reading, found = settings.data.reading(), []
    for block in blocks_of(reading):
        rows = rows_of(block, reading)
        if user in rows.user.ids:
            mine = np.flatnonzero(rows.user.codes == rows.user.ids.index(user))
            found += [_row(rows, row) for row in mine.tolist()]
    return found


def _row(rows: Rows, row: int) -> dict[str, Any]:
    found: dict[str, Any] = {"item": rows.item.ids[rows.item.codes[row]]}
    if rows.value is not None and np.isfinite(rows.value[row]):
        found["value"] = float(rows.value[row])
    if rows.time is not None and rows.time[row] != MISSING:
        # Nanoseconds, or a place in an order.
        found["position" if rows.positions else "time"] = (
            int(rows.time[row]) if rows.positions else float(rows.time[row]) / 1e9
        )
    if rows.weight is not None:
        found["weight"] = float(rows.weight[row])
    return found


def _service_record(settings: SiloSettings, user: str) -> dict[str, Any] | None:
    place = service_of(settings)
    if place is None:
        return None
    if not place.store and not Path(place.address).is_file():
        raise DataNotFoundError(f"There is no log of events in {place.folder}. Start the service once.")
    store: FeedbackStore = open_store(place)
    try:
        return store.user_record(user)
    finally:
        store.close()
