"""Ledgers that an earlier version wrote: opened, brought forward, gone on with, entries byte for byte the same."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledger_kit import KEY, OTHER_KEY, charge, charged, created, export, kept, settle
from postgres_server import new_database

from recsys_fed.errors import KeyFileError, LedgerError, LedgerIntegrityError
from recsys_fed.ledger import _migrations
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.storage import Storage, agreements_table, ledger_table
from recsys_fed.ledger.verification import verification_record, verify_ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def older(request, tmp_path) -> str:
    """A ledger of schema 1, from a dump of that version's own."""
    text = (Path(__file__).parent / f"ledger_schema_1_{request.param}.sql").read_text(encoding="utf-8")
    if request.param == "sqlite":
        path = tmp_path / "older.sqlite"
        with sqlite3.connect(path) as connection:
            connection.executescript(text)
            connection.execute("PRAGMA journal_mode = WAL")
        return str(path)
    import psycopg

    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text)
    return url


def schema(url):
    with Storage(url).reading() as connection:
        return connection.execute(sa.select(ledger_table.c.schema_version)).scalar()


def structure(url):
    """Tables with their columns and indices."""
    with Storage(url).reading() as connection:
        found = sa.inspect(connection)
        return {
            table: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)],
                found.get_pk_constraint(table)["constrained_columns"],
                sorted((i["name"], tuple(i["column_names"])) for i in found.get_indexes(table)),
            )
            for table in sorted(found.get_table_names())
        }


def test_it_is_read_as_it_is_and_brought_forward_by_who_writes(older):
    reading = Ledger.open(older)
    before, spent = export(reading), reading.spending().epsilon
    assert reading.agreements() == []
    assert verify_ledger(reading, public_key=KEY.public_key).releases == 5
    assert schema(older) == 1, "who only reads changes nothing"
    with pytest.raises(KeyFileError):
        Ledger.open(older, key=OTHER_KEY)
    assert schema(older) == 1, "nor who has another key"
    ledger = Ledger.open(older, key=KEY)
    assert schema(older) == 2
    assert export(ledger) == before
    assert ledger.spending().epsilon == spent
    # And it goes on: what was kept, what was pending, one-time states, the limit.
    assert kept(ledger, "other", run="second") == b"other"
    assert charge(ledger, "pending", run="third").number == 6, "charged already"
    assert settle(ledger, "pending", b"bytes", run="third") == b"bytes"
    ledger.consume_state(run="masked", used="a" * 64, after="b" * 64)
    charged(ledger, "one more", run="fourth")
    assert ledger.terms().guarantee.epsilon == 6.0
    assert verify_ledger(ledger).releases == 6
    assert export(ledger).startswith(before)


def test_it_has_the_structure_of_a_new_one(older, tmp_path):
    Ledger.open(older, key=KEY).close()
    new = new_database() if "://" in older else str(tmp_path / "new.sqlite")
    created(new).close()
    assert structure(older) == structure(new)


def test_nothing_is_changed_by_a_step_that_fails(older, monkeypatch):
    def failing(op):
        op.create_table("half", sa.Column("number", sa.Integer, primary_key=True))
        raise LedgerError("a step failed")

    monkeypatch.setattr(_migrations, "_STEPS", (*_migrations._STEPS, failing))
    before = structure(older), export(Ledger.open(older))
    with pytest.raises(LedgerError, match="a step failed"):
        Ledger.open(older, key=KEY)
    assert (structure(older), export(Ledger.open(older))) == before
    assert schema(older) == 1
    monkeypatch.undo()
    assert Ledger.open(older, key=KEY).agreements() == []


def _open(url):
    ledger = Ledger.open(url, key=KEY)
    charged(ledger, "payload", run=multiprocessing.current_process().name)


def test_processes_that_open_it_at_once_bring_it_forward_once(older):
    context = multiprocessing.get_context("forkserver")
    # Imported once, before the two are forked.
    context.set_forkserver_preload(["recsys_fed.ledger.ledger", "opacus"])
    processes = [context.Process(target=_open, args=(older,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 2
    assert verify_ledger(Ledger.open(older)).releases == 7


def test_agreements_are_signed_in_order_and_by_the_ledgers_key(url):
    ledger = created(url)
    assert ledger.agreements() == []
    made = [ledger.agree(what, version=2, digest="d" * 64) for what in ("terms", "roster")]
    assert ledger.agreements() == Ledger.open(url).agreements() == made
    assert made[1].previous == made[0].hash
    assert verify_ledger(ledger).releases == 0
    with pytest.raises(KeyFileError):
        Ledger.open(url).agree("terms", version=3, digest="d" * 64)
    for change in (
        agreements_table.update().where(agreements_table.c.number == 0).values(content=made[1].content),
        agreements_table.delete().where(agreements_table.c.number == 0),
        agreements_table.update().values(signature="0" * 128),
        agreements_table.update().values(content=b"{}"),
    ):
        with Storage(url).writing() as connection:
            kept_rows = connection.execute(sa.select(agreements_table)).all()
            connection.execute(change)
        with pytest.raises(LedgerIntegrityError, match="Agreement"):
            ledger.agreements()
        assert not verification_record(url)["holds"]
        with Storage(url).writing() as connection:
            connection.execute(agreements_table.delete())
            connection.execute(agreements_table.insert(), [row._asdict() for row in kept_rows])
        assert ledger.agreements() == made
