"""Every change of a stored ledger, behind the back of its triggers, is detected."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from ledger_kit import HandClock, charged, created

from recsys_fed.errors import LedgerIntegrityError
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.storage import Storage, entries_table
from recsys_fed.ledger.verification import verify_ledger

COLUMNS = [column.name for column in entries_table.columns]
NULLABLE = {column.name for column in entries_table.columns if column.nullable}
REST = ", ".join(COLUMNS[1:])
ENTRIES = 5


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A closed ledger of all kinds of entries, one file."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    ledger = created(path, clock=HandClock())
    for number in range(2):
        charged(ledger, f"payload {number}", round=number, sampling_probability=0.5, noise_multiplier=3.0)
    ledger.set_limit(90.0, reason="another year")
    charged(ledger, "payload 2", noise_multiplier=4.0)
    ledger.close()
    return path


@contextmanager
def tampered(original: Path, folder: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the ledger that lets everything be done to it."""
    path = folder / "copy.sqlite"
    shutil.copy(original, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        yield connection


def verdict(folder: Path) -> str:
    """Why the copy is refused."""
    with pytest.raises(LedgerIntegrityError) as caught:
        verify_ledger(Ledger(Storage(str(folder / "copy.sqlite"))))
    return str(caught.value)


def other(value: object) -> list[object]:
    """Values that a column of this value may be changed to: of its type, and of others."""
    if isinstance(value, bytes):
        return [value[:-1], value + b" ", value.replace(b"e", b"f", 1), b"", value.decode(), 7]
    if isinstance(value, str):
        return [value[:-1] + ("0" if value[-1] != "0" else "1"), "", value.upper() + " ", value.encode(), 7]
    if isinstance(value, (int, float)):
        return [value + 1, value * 2 + 1, -1, "text", b"bytes", 1e300]
    return ["text", 1, 0.5, b"bytes"]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_column_of_any_row_is_detected_and_named(column, original, tmp_path):
    for row in range(ENTRIES):
        with tampered(original, tmp_path) as connection:
            before = connection.execute(f"SELECT {column} FROM entries WHERE number = {row}").fetchone()[0]
        values = other(before) + ([None] if column in NULLABLE and before is not None else [])
        reasons = {str(value): changed(original, tmp_path, row, (column, before, value)) for value in values}
        assert any(reasons.values())
        for value, reason in reasons.items():
            found = re.search(r"ntry (\d+)", reason or f"entry {row}")
            assert found, reason
            # A row that calls itself by another number is found where it is, or where it lacks.
            assert column == "number" or abs(int(found.group(1)) - row) <= 1, (row, before, value, reason)


def changed(original: Path, folder: Path, row: int, change: tuple[str, object, object]) -> str | None:
    """Why the ledger with one changed value is refused; None if SQLite does not store it as another value."""
    column, before, value = change
    with tampered(original, folder) as connection:
        try:
            connection.execute(f"UPDATE entries SET {column} = ? WHERE number = {row}", (value,))
        except sqlite3.IntegrityError:
            return None
        after = [found for (found,) in connection.execute(f"SELECT {column} FROM entries ORDER BY number")]
    if column != "number" and after[row] == before and type(after[row]) is type(before):
        return None
    return verdict(folder)


@pytest.mark.parametrize("row", range(ENTRIES))
def test_a_deleted_row_is_detected(row, original, tmp_path):
    with tampered(original, tmp_path) as connection:
        hashes = dict(connection.execute("SELECT number, hash FROM entries"))
        connection.execute(f"DELETE FROM entries WHERE number = {row}")
    if row < ENTRIES - 1:
        assert f"ntry {row}" in verdict(tmp_path)
    else:
        ledger = Ledger.open(str(tmp_path / "copy.sqlite"))
        with pytest.raises(LedgerIntegrityError, match=f"entry {row} that a certificate names"):
            verify_ledger(ledger, named_hashes=hashes)


def test_the_untouched_ledger_holds(original, tmp_path):
    with tampered(original, tmp_path):
        pass
    assert verify_ledger(Ledger.open(str(tmp_path / "copy.sqlite"))).head.number == ENTRIES - 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET steps = 2 WHERE number = 1",
        "DELETE FROM entries WHERE number = 4",
        "DELETE FROM entries",
        f"INSERT OR REPLACE INTO entries SELECT 1, {REST} FROM entries WHERE number = 2",
        f"INSERT INTO entries SELECT 9, {REST} FROM entries WHERE number = 2",
    ],
)
def test_an_ordinary_statement_cannot_change_what_was_written(statement, original, tmp_path):
    """Against mistakes, not against whoever owns the file."""
    path = shutil.copy(original, tmp_path / "ledger.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("SELECT * FROM entries").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
        connection.rollback()
        assert connection.execute("SELECT * FROM entries").fetchall() == before
