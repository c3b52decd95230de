"""The one reader of settings in TOML: a file, its tables as dataclasses, and what is refused in the same words.

A key `embedding-dim` is the field `embedding_dim`. What nothing reads is refused: a misspelled setting must not be
silently open.
"""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

T = TypeVar("T")
Value = bool | int | float | str


def read_tables(path: Path, *, what: str) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is not TOML.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find {what} at {path}.")
    try:
        return parse_tables(path.read_text(encoding="utf-8"), place=str(path))
    except UnicodeDecodeError as error:
        raise DataFormatError(f"Expected TOML in {path}: {error}.") from error


def parse_tables(text: str, *, place: str) -> dict[str, Any]:
    """The content of such a text; raises DataFormatError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataFormatError(f"Expected TOML in {place}: {error}.") from error


def parse_value(text: str) -> Any:
    """A value as TOML has it; what is no TOML is a text.

    >>> parse_value("0.5"), parse_value("local")
    (0.5, 'local')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check_keys(keys: Collection[str], known: Collection[str], *, place: str) -> None:
    """Refuse a key that is not known, and say which one may be meant.

    >>> check_keys(["silo"], ["silos"], place="a run")
    Traceback (most recent call last):
    ...
    recsys_fed.errors.ConfigurationError: Expected a key of a run, got 'silo', which nothing reads. Is it 'silos'?
    """
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"Is it {close[0]!r}?" if close else f"There are {', '.join(sorted(known)) or 'none'}."
            raise ConfigurationError(f"Expected a key of {place}, got {key!r}, which nothing reads. {hint}")


def check_tables(tables: Mapping[str, object], known: Collection[str], *, place: str) -> None:
    """Refuse a table that is not known, and a value where a table is meant; see `check_keys`."""
    check_keys(tables, known, place=place)
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ConfigurationError(f"Expected a table [{name}] in {place}, got {table!r}.")


def keys_of(kind: type) -> dict[str, str]:
    """Key -> field, of the fields of a dataclass that hold plain values."""
    hints = _plain_hints(kind)
    return {one.name.replace("_", "-"): one.name for one in fields(kind) if one.name in hints}


@cache
def _plain_hints(kind: type) -> dict[str, type]:
    """Field -> type, of the fields that hold plain values; a text that may be given as an object is a text here."""
    hints = {name: str if str in get_args(hint) else hint for name, hint in get_type_hints(kind).items()}
    return {name: hint for name, hint in hints.items() if hint in (bool, int, float, str)}


def parse_table(kind: type[T], table: Mapping[str, object], *, place: str, **given: Any) -> T:
    """A dataclass from a table and the fields that are `given` besides.

    Raises:
        ConfigurationError: a key that nothing reads, a value of another type, or one that is not allowed.
    """
    known = keys_of(kind)
    check_keys(table, known.keys() - {name.replace("_", "-") for name in given}, place=place)
    return kind(**read_fields(kind, table, place=f" in {place}"), **given)


def read_fields(kind: type, table: Mapping[str, object], *, place: str = "") -> dict[str, object]:
    """The values of a table for the fields of a dataclass; other keys are left to others."""
    hints, known = _plain_hints(kind), keys_of(kind)
    return {
        known[key]: _check_type(key, hints[known[key]], value, place) for key, value in table.items() if key in known
    }


def _check_type(key: str, expected: type, value: object, place: str) -> object:
    """Return a value of the expected type; whole numbers are fine where a float is expected."""
    if expected is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not expected:
        raise ConfigurationError(
            f"Expected {key} of type {expected.__name__}{place}, got {value!r} ({type(value).__name__})."
        )
    return value


def flatten(table: Mapping[str, Any]) -> dict[str, object]:
    """A TOML table as flat keys.

    >>> flatten({"epsilon": 2.0, "dp-sgd": {"loss": "bpr"}})
    {'epsilon': 2.0, 'dp-sgd.loss': 'bpr'}
    """
    keys: dict[str, object] = {}
    for name, value in table.items():
        keys |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return keys


def to_toml(record: Mapping[str, Value]) -> str:
    """Flat keys as TOML lines; `read_tables` and `flatten` give them back."""
    lines = []
    for key, value in sorted(record.items(), key=lambda item: ("." in item[0], item[0])):
        name = ".".join(f'"{part}"' if not part.replace("-", "").isalnum() else part for part in key.split("."))
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise ConfigurationError(f"Expected {key} to be text that a file can hold, got {value!r}.")
        lines.append(f"{name} = {_literal(value)}")
    return "\n".join(lines) + "\n"


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    return repr(value)
