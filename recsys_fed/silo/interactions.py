"""Blocks of rows as the silo's interactions under pseudonyms; raw user ids are gone once a block is taken in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.columns import LATEST_SECONDS, identifiers, numbers
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.report import ValidationReport
from recsys_fed.data.silo import silo_dataset
from recsys_fed.data.split import leave_last_out
from recsys_fed.data.validation import validate
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.silo.blocks import Blocks, blocks_of
from recsys_fed.silo.pseudonyms import Pseudonyms
from recsys_fed.silo.settings import DataSettings, moment

# Pseudonyms [n_users] of some users, and their histories, csr [n_users, n_items].
Part = tuple[npt.NDArray[np.object_], sparse.csr_matrix]


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloData:
    """What a silo trains on, in memory.

    Attributes:
        train, test: csr [n_users, n_items] over the catalogue; test is what hold-out keeps away, or empty.
        users: pseudonyms, object array of str [n_users].
        report: what validation found. unknown_items: interactions with items that the catalogue lacks.
        short: users who were left out for want of history. All three are for the operator only.
    """

    train: sparse.csr_matrix
    test: sparse.csr_matrix
    users: npt.NDArray[np.object_]
    report: ValidationReport
    unknown_items: int
    short: int

    @property
    def interactions(self) -> int:
        """Number of interactions to train on."""
        return int(self.train.nnz)

    def histories(self, device: torch.device | str = "cpu") -> Histories:
        """What is trained on."""
        return histories_of(self.train, device=device)

    def parts(self) -> Iterator[Part]:
        """Users with all their interactions, held-out ones included: all at once."""
        yield self.users, self.train + self.test


def read_silo_data(data: DataSettings, catalogue: Catalogue, pseudonyms: Pseudonyms) -> SiloData:
    """Read the configured source to its end.

    Guarantees: whether a user takes part, and with what, depends on that user's own rows only, so that adding or
    removing a user changes no other user's history.

    Raises:
        DataError, ConfigurationError: see `blocks_of` and `validate`.
    """
    return silo_data(_frame(blocks_of(data), data, pseudonyms), data, catalogue)


def silo_data(frame: pd.DataFrame, data: DataSettings, catalogue: Catalogue) -> SiloData:
    """What follows from all rows of some users: a table of user, item and perhaps value and time."""
    interactions, report = validate(frame, source=data.source, may_be_empty=True)
    minimum = None if np.isneginf(data.minimum_value) else data.minimum_value
    if minimum is not None and interactions.value is not None:
        interactions = interactions.select(np.asarray(interactions.value >= minimum, dtype=bool))
    held = leave_last_out(interactions) if data.hold_out == "last" and len(interactions) else _none(interactions)
    whole = silo_dataset(interactions, catalogue)
    kept = np.diff(whole.histories.indptr) >= data.minimum_history
    return SiloData(
        train=silo_dataset(interactions, catalogue, ~held).histories[kept],
        test=silo_dataset(interactions, catalogue, held).histories[kept],
        users=interactions.user_ids[kept],
        report=report,
        unknown_items=whole.unknown_items,
        short=int(np.count_nonzero(~kept)),
    )


def _none(interactions: Interactions) -> npt.NDArray[np.bool_]:
    return np.zeros(len(interactions), dtype=bool)


def _frame(blocks: Blocks, data: DataSettings, pseudonyms: Pseudonyms) -> pd.DataFrame:
    """All blocks as one table of codes and numbers: about 32 bytes a row."""
    users, items = Codes(), Codes()
    parts: dict[str, list[npt.NDArray[np.generic]]] = {role: [] for role in data.columns}
    for raw in blocks:
        block = in_time(raw, data)
        parts["user"].append(users.of(block["user"], pseudonyms))
        parts["item"].append(items.of(block["item"]))
        for role in ("value", "time"):
            if role in parts:
                parts[role].append(number(block[role]))
    frame = pd.DataFrame({role: np.concatenate(all_of) if all_of else [] for role, all_of in parts.items()})
    return frame.assign(user=users.categorical(frame["user"]), item=items.categorical(frame["item"]))


class Codes:
    """Codes of ids over all blocks, in the order in which they first occur; -1 where there is no id."""

    def __init__(self) -> None:
        self._code_of: dict[str, int] = {}

    def of(self, column: "pd.Series", pseudonyms: Pseudonyms | None = None) -> npt.NDArray[np.int32]:
        """Codes [n] of a block's ids, which are replaced by pseudonyms if there are some."""
        codes, distinct = identifiers(column)
        ids = distinct if pseudonyms is None else pseudonyms.of_all(distinct)
        known = [self._code_of.setdefault(text, len(self._code_of)) for text in ids.tolist()]
        return np.array([*known, -1], dtype=np.int32)[codes]

    def categorical(self, codes: "pd.Series | npt.NDArray[np.int32]") -> "pd.Categorical":
        """The column of codes with its ids."""
        ids = pd.CategoricalDtype(pd.Index(list(self._code_of), dtype=object))
        return pd.Categorical.from_codes(np.asarray(codes, dtype=np.int32), dtype=ids)


def in_time(block: pd.DataFrame, data: DataSettings) -> pd.DataFrame:
    """The rows from `since` on and before `until`; where one is set, rows without a time are left out."""
    since, until = moment(data.since), moment(data.until)
    if "time" not in block or (since is None and until is None):
        return block
    time = number(block["time"])
    with np.errstate(invalid="ignore"):
        seconds = np.where(time > LATEST_SECONDS, time / 1000, time)
        kept = ~np.isnan(seconds)
        kept &= seconds >= since if since is not None else True
        kept &= seconds < until if until is not None else True
    return block.loc[kept]


def number(column: "pd.Series") -> npt.NDArray[np.float64]:
    """Numbers as they are; dates and times, also as text (ISO 8601), as seconds since 1970; NaN for the rest."""
    found, unparsable = numbers(column)
    if not len(column) or not unparsable.all():
        return np.asarray(found, dtype=np.float64)
    times = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    seconds = (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return np.asarray(seconds, dtype=np.float64)
