"""The catalogue: which items there are, in which order, and what is publicly known of them.

Its file is one Parquet table whose metadata holds the content hash.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.errors import DataError, DataFormatError, DataNotFoundError
from recsys_fed.files import whole_file

_COLUMNS = ("item_ids", "titles", "categories", "texts")
# A column of numbers, that a catalogue has only where its texts were encoded.
_VECTORS = "text_vectors"
# Which public users have an item, and in the metadata what each of them has consented to.
_PUBLIC, _CONSENT_KEY = "public_users", b"recsys_fed.consent"

_TYPES = {
    "item_ids": pa.string(),
    "titles": pa.string(),
    "categories": pa.list_(pa.string()),
    "texts": pa.large_string(),
    _VECTORS: pa.list_(pa.float32()),
    _PUBLIC: pa.list_(pa.int32()),
}
_HASH_KEY = b"recsys_fed.content_hash"


def _write_columns(path: Path, columns: Mapping[str, Any], *, metadata: Mapping[bytes, bytes]) -> None:
    """Write the columns that are not None; another process sees the old file or the whole new one."""
    present = {name: values for name, values in columns.items() if values is not None}
    schema = pa.schema(
        [pa.field(name, _TYPES[name], nullable=False) for name in present],
        metadata=dict(metadata),
    )
    arrays = [_array(name, values) for name, values in present.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), file)


def _read_columns(path: Path) -> tuple[dict[str, Any], str]:
    """The catalogue's columns and the hash that the file claims for them."""
    if not path.is_file():
        raise DataNotFoundError(f"Expected a catalogue (Parquet) at {path}, found no file.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"Expected a catalogue in Parquet at {path}, could not read it: {error}") from error
    content_hash = (table.schema.metadata or {}).get(_HASH_KEY)
    if content_hash is None or "item_ids" not in table.column_names:
        raise DataFormatError(
            f"Expected {path} to be a catalogue with an item_ids column and a content hash, "
            f"got the columns {', '.join(table.column_names)}. Write it with Catalogue.save."
        )
    columns = {name: table[name].to_pylist() for name in (*_COLUMNS, _VECTORS, _PUBLIC) if name in table.column_names}
    fields = _as_fields(columns, path)
    if _PUBLIC in fields:
        try:
            fields[_PUBLIC] = PublicUsers(
                of_item=tuple(map(tuple, fields[_PUBLIC])),
                consent=tuple(json.loads(table.schema.metadata[_CONSENT_KEY])),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise DataFormatError(f"Expected public users with their consent in {path}, got {error}.") from error
    return fields, content_hash.decode(errors="replace")


def _array(name: str, values: Any) -> pa.Array:
    if name == _VECTORS:
        starts = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(starts, pa.array(values.ravel(), type=pa.float32()))
    return pa.array(values, type=_TYPES[name])


def _as_fields(columns: dict[str, list[Any]], path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {name: tuple(values) for name, values in columns.items()}
    ids = np.empty(len(columns["item_ids"]), dtype=object)
    ids[:] = columns["item_ids"]
    fields["item_ids"] = ids
    if "categories" in fields:
        if not all(isinstance(entry, list) for entry in fields["categories"]):
            raise DataFormatError(f"Expected the categories in {path} to be lists of str.")
        fields["categories"] = tuple(map(tuple, fields["categories"]))
    if _VECTORS in fields:
        try:
            fields[_VECTORS] = np.array(columns[_VECTORS], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataFormatError(f"Expected {_VECTORS} in {path} to be lists of equally many numbers.") from error
    return fields


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicUsers:
    """Histories that their owners have made public, and how they said so. They are nobody's of a silo.

    Attributes:
        of_item: numbers of the users who have each item of the catalogue, ascending, [n_items].
        consent: what each user has consented to, [n_users]; never empty.

    Raises:
        DataError: a user without a statement, or a number of none.
    """

    of_item: tuple[tuple[int, ...], ...]
    consent: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_text("consent", self.consent)
        if not all(map(str.strip, self.consent)):
            raise DataError("Expected a statement of consent of every public user, got an empty one.")
        for users in self.of_item:
            inside = all(type(user) is int and 0 <= user < self.n_users for user in users)
            if not inside or any(a >= b for a, b in pairwise(users)):
                raise DataError(f"Expected ascending numbers of {self.n_users} public users, got {users!r:.80}.")

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.consent)

    def sentence(self) -> str:
        """How many they are and what they have consented to, for people."""
        statements = Counter(self.consent).most_common()
        said = "; ".join(f"{text!r} ({count})" for text, count in statements[:_STATEMENTS])
        more = len(statements) - _STATEMENTS
        count = sum(map(len, self.of_item))
        return f"{self.n_users} users with {count:,} interactions, who are in no silo; they consented to: {said}" + (
            f" and {more} other statements" if more > 0 else ""
        )


_STATEMENTS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Public items in embedding-row order; nothing in it depends on any user of a silo.

    Attributes:
        item_ids: distinct ids, object array of str, [n_items]; row i of every
            item table belongs to item_ids[i].
        titles: a title an item, or None where there are no titles.
        categories: the categories of each item (an item may have none), or None.
        texts: a paragraph an item ("" where there is none), or None.
        text_vectors: an embedding of each item's title and text, float32 [n_items, n], or None; see `encode_text`.
        public_users: histories that may be used at no cost, or None.

    Raises:
        DataError: no items, an id twice, a column of another length, something that is not a str, or vectors
            that are not finite.
    """

    item_ids: npt.NDArray[np.object_]
    titles: tuple[str, ...] | None = None
    categories: tuple[tuple[str, ...], ...] | None = None
    texts: tuple[str, ...] | None = None
    text_vectors: npt.NDArray[np.float32] | None = None
    public_users: PublicUsers | None = None

    def __post_init__(self) -> None:
        ids = np.array(self.item_ids, dtype=object)
        if ids.ndim != 1 or not len(ids):
            raise DataError(f"Expected item_ids to be a list of at least one id, got shape {ids.shape}.")
        ids.flags.writeable = False
        object.__setattr__(self, "item_ids", ids)
        self._check_columns()
        if len(self._row_of) < len(ids):
            row = next(row for row, name in enumerate(ids) if self._row_of[name] != row)
            raise DataError(f"Expected distinct item ids, got {ids[row]!r} twice (again in row {row}).")

    def _check_columns(self) -> None:
        for name in _COLUMNS:
            column = getattr(self, name)
            if column is None:
                continue
            if len(column) != self.n_items:
                raise DataError(f"Expected {name} of {self.n_items} items, got {len(column)}.")
            _check_text(name, _flat(column) if name == "categories" else column)
        if self.text_vectors is not None:
            object.__setattr__(self, "text_vectors", _check_vectors(self.text_vectors, self.n_items))
        if self.public_users is not None and len(self.public_users.of_item) != self.n_items:
            raise DataError(f"Expected public users of {self.n_items} items, got {len(self.public_users.of_item)}.")

    @property
    def n_items(self) -> int:
        """Number of items, that is of rows of an item table."""
        return len(self.item_ids)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        """The first row of each id."""
        return dict(zip(self.item_ids[::-1], range(len(self.item_ids) - 1, -1, -1), strict=True))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the ids and all public columns.

        Every column goes in as its name, the lengths of its entries and then their bytes, so two
        catalogues with the same hash have the same ids in the same order and the same columns.
        """
        digest = hashlib.sha256(b"recsys-fed catalogue 1\n")
        for name in _COLUMNS:
            column = getattr(self, name)
            digest.update(name.encode() + (b"-" if column is None else b"+"))
            if column is None:
                continue
            if name == "categories":
                digest.update(_integers(len(entry) for entry in column))
                column = _flat(column)
            encoded = [entry.encode() for entry in column]
            digest.update(_integers((len(encoded),)) + _integers(map(len, encoded)))
            digest.update(b"".join(encoded))
        if self.text_vectors is not None:
            digest.update(_VECTORS.encode() + b"+" + _integers(self.text_vectors.shape))
            digest.update(self.text_vectors.astype("<f4").tobytes())
        if self.public_users is not None:
            users, consent = self.public_users.of_item, [text.encode() for text in self.public_users.consent]
            digest.update(_PUBLIC.encode() + b"+" + _integers(map(len, users)))
            digest.update(_integers(user for item in users for user in item))
            digest.update(_integers((len(consent),)) + _integers(map(len, consent)) + b"".join(consent))
        return digest.hexdigest()

    def rows(self, ids: Sequence[str] | npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
        """The row of each id (a str), int64 [len(ids)]; -1 for an id that is not in the catalogue."""
        return np.fromiter((self._row_of.get(name, -1) for name in ids), dtype=np.int64, count=len(ids))

    def save(self, path: str | Path) -> None:
        """Write the catalogue as Parquet, with its hash; the file appears whole or not at all."""
        columns = {name: getattr(self, name) for name in (*_COLUMNS, _VECTORS)}
        metadata = {_HASH_KEY: self.content_hash.encode()}
        if self.public_users is not None:
            columns[_PUBLIC] = self.public_users.of_item
            metadata[_CONSENT_KEY] = json.dumps(self.public_users.consent).encode()
        _write_columns(Path(path), columns, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a catalogue that `save` wrote, and verify its hash.

        Raises:
            DataNotFoundError: there is no such file.
            DataFormatError: the file is not a catalogue, or its content is not what its hash says.
            DataError: the content is no valid catalogue.
        """
        columns, content_hash = _read_columns(Path(path))
        catalogue = cls(**columns)
        if catalogue.content_hash != content_hash:
            raise DataFormatError(
                f"Expected the content of {path} to have the hash {content_hash}, got "
                f"{catalogue.content_hash}: the file was changed. Fetch the catalogue again."
            )
        return catalogue


def _check_vectors(vectors: npt.NDArray[np.float32], n_items: int) -> npt.NDArray[np.float32]:
    found = np.array(vectors, dtype=np.float32)
    if found.ndim != 2 or len(found) != n_items or not np.isfinite(found).all():
        raise DataError(
            f"Expected finite {_VECTORS} of shape ({n_items}, n), got {found.shape} or values that are not."
        )
    found.flags.writeable = False
    return found


def _flat(column: Iterable[Sequence[str]]) -> list[str]:
    return [word for entry in column for word in entry]


def _integers(values: Iterable[int]) -> bytes:
    return np.fromiter(values, dtype="<i8").tobytes()


def _check_text(name: str, entries: Iterable[object]) -> None:
    for row, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise DataError(f"Expected {name} to hold str, got {type(entry).__name__} as entry {row}.")
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"Expected {name} to hold valid Unicode, entry {row} does not.") from error


def extend_catalogue(catalogue: Catalogue, items: Catalogue) -> Catalogue:
    """The catalogue as it is, and after it those of `items` that it lacks; of columns, those that it has."""
    new = np.flatnonzero(catalogue.rows(items.item_ids) < 0)

    def column(name: str, empty: str | tuple[str, ...]) -> tuple[str | tuple[str, ...], ...] | None:
        there, more = getattr(catalogue, name), getattr(items, name)
        if there is None:
            return None
        return (*there, *((more[row] if more is not None else empty) for row in new.tolist()))

    return Catalogue(
        item_ids=np.concatenate([catalogue.item_ids, items.item_ids[new]]),
        titles=column("titles", ""),  # type: ignore[arg-type]
        categories=column("categories", ()),  # type: ignore[arg-type]
        texts=column("texts", ""),  # type: ignore[arg-type]
        text_vectors=_more_vectors(catalogue, items, new),
        public_users=_of_items(catalogue.public_users, [*range(catalogue.n_items), *[-1] * len(new)]),
    )


def catalogue_of_model(catalogue: Catalogue, *, content_hash: str, n_items: int) -> Catalogue:
    """The version of a catalogue that a model was trained on: this one, or its first `n_items`.

    A catalogue only grows at its end (`extend_catalogue`), so an earlier version is its beginning, row by row, and
    what was released for it keeps its rows.

    Raises:
        DataFormatError: it is no version of this catalogue.
    """
    if catalogue.content_hash == content_hash:
        return catalogue
    if 0 < n_items < catalogue.n_items:
        earlier = drop_items(catalogue, np.arange(catalogue.n_items) >= n_items)
        if earlier.content_hash == content_hash:
            return earlier
    raise DataFormatError("Expected the catalogue that the model was trained on, got another. Fetch it again.")


def _of_items(users: PublicUsers | None, rows: Sequence[int]) -> PublicUsers | None:
    """The same users on other rows of items; nobody has those of -1."""
    if users is None:
        return None
    return replace(users, of_item=tuple(users.of_item[row] if row >= 0 else () for row in rows))


def _more_vectors(
    catalogue: Catalogue, items: Catalogue, new: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    """Vectors of both; zeros, which say nothing, where the new items have none of the same length."""
    there, more = catalogue.text_vectors, items.text_vectors
    if there is None:
        return None
    if more is None or more.shape[1] != there.shape[1]:
        more = np.zeros((items.n_items, there.shape[1]), dtype=np.float32)
    return np.concatenate([there, more[new]])


def drop_items(catalogue: Catalogue, rows: npt.NDArray[np.bool_]) -> Catalogue:
    """The catalogue without some of its rows, bool [n_items]."""
    kept = np.flatnonzero(~rows).tolist()
    columns = {
        name: None if (values := getattr(catalogue, name)) is None else tuple(values[row] for row in kept)
        for name in ("titles", "categories", "texts")
    }
    vectors = None if catalogue.text_vectors is None else catalogue.text_vectors[kept]
    users = _of_items(catalogue.public_users, kept)
    return Catalogue(item_ids=catalogue.item_ids[kept], text_vectors=vectors, public_users=users, **columns)
