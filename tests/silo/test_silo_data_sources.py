"""A silo's data: the same interactions from every source, in blocks, read-only, under pseudonyms."""

import sqlite3

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import new_database

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.readers.blocks import blocks_of
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.silo.interactions import read_silo_data
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import DataSettings

CATALOGUE = Catalogue(item_ids=np.array(["a", "b", "c", "7"], dtype=object))
PSEUDONYMS = Pseudonyms(SiloSecret.generate())
TABLE = pd.DataFrame(
    {
        "customer": ["007", "007", "8", "9", "9", "9", None, "10"],
        "sku": ["a", "b", "a", "zz", "b", "c", "a", "7"],
        "stars": [5.0, 3.0, 4.0, 1.0, 2.0, 5.0, 2.0, 4.0],
        "at": [f"2024-0{month}-01T00:00:00Z" for month in (1, 2, 3, 4, 5, 6, 7, 8)],
    }
)
COLUMNS = {"user": "customer", "item": "sku", "value": "stars", "time": "at"}
QUERY = "SELECT customer, sku, stars, at FROM purchases"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same table in every kind of source."""
    folder = tmp_path_factory.mktemp("sources")
    TABLE.to_csv(folder / "t.csv", index=False)
    TABLE.to_parquet(folder / "t.parquet")
    (folder / "parts").mkdir()
    TABLE[:3].to_parquet(folder / "parts" / "0.parquet")
    TABLE[3:].to_parquet(folder / "parts" / "1.parquet")
    with sqlite3.connect(folder / "t.sqlite") as connection:
        TABLE.to_sql("purchases", connection, index=False)
    found = {
        "csv": {"source": "csv", "path": str(folder / "t.csv")},
        "parquet": {"source": "parquet", "path": str(folder / "t.parquet")},
        "parquet folder": {"source": "parquet", "path": str(folder / "parts")},
        "sqlite": {"source": "sqlite", "url": str(folder / "t.sqlite"), "query": QUERY},
    }
    try:
        url = new_database()
    except pytest.skip.Exception:
        return found
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    TABLE.to_sql("purchases", engine, index=False)
    engine.dispose()
    return found | {"postgresql": {"source": "postgresql", "url": url, "query": QUERY}}


def read(source, **more):
    return read_silo_data(DataSettings(**source, **COLUMNS, **more), CATALOGUE, PSEUDONYMS)


def as_sets(data):
    """Pseudonym -> rows of the catalogue."""
    return {user: set(data.train[row].indices.tolist()) for row, user in enumerate(data.users.tolist())}


@pytest.mark.parametrize("block_rows", [1, 3, 1000])
def test_every_source_gives_the_same_silo(sources, block_rows):
    expected = {PSEUDONYMS.of("007"): {0, 1}, PSEUDONYMS.of("8"): {0}, PSEUDONYMS.of("9"): {1, 2}}
    expected[PSEUDONYMS.of("10")] = {3}
    for name, source in sources.items():
        data = read(source, block_rows=block_rows)
        assert as_sets(data) == expected, name
        assert (data.unknown_items, data.short) == (1, 0), name
        assert [finding.rule for finding in data.report.findings] == ["missing user"], name
        blocks = list(blocks_of(DataSettings(**source, **COLUMNS, block_rows=block_rows).reading()))
        assert max(map(len, blocks)) <= block_rows, name


def test_filters_say_what_counts(sources):
    for name, source in sources.items():
        in_time = as_sets(read(source, since="2024-02-01", until="2024-06-01"))
        assert in_time == {PSEUDONYMS.of("007"): {1}, PSEUDONYMS.of("8"): {0}, PSEUDONYMS.of("9"): {1}}, name
        liked = as_sets(read(source, minimum_value=4.0))
        assert set(liked) == {PSEUDONYMS.of(user) for user in ("007", "8", "9", "10")}, name
        assert liked[PSEUDONYMS.of("9")] == {2}, name
        data = read(source, minimum_history=2)
        assert set(data.users) == {PSEUDONYMS.of("007"), PSEUDONYMS.of("9")}, name
        assert data.short == 2, name
        held = read(source, hold_out="last")
        assert as_sets(held)[PSEUDONYMS.of("007")] == {0}, name
        assert held.test[held.users.tolist().index(PSEUDONYMS.of("007"))].indices.tolist() == [1], name


def test_since_and_until_reach_a_query_as_parameters(sources):
    for name in set(sources) & {"sqlite", "postgresql"}:
        source = sources[name] | {"query": f"{QUERY} WHERE at >= :since AND at < :until"}
        data = read(source, since="2024-02-01T00:00:00Z", until="2024-04-01T00:00:00Z")
        assert set(data.users) == {PSEUDONYMS.of("007"), PSEUDONYMS.of("8")}, name


def test_a_query_cannot_write(sources):
    for name in set(sources) & {"sqlite", "postgresql"}:
        writing = "DELETE FROM purchases RETURNING customer, sku, stars, at"
        for query in (writing, "DELETE FROM purchases", "DROP TABLE purchases", "CREATE TABLE other (x int)"):
            with pytest.raises(DataFormatError) as refused:
                read(sources[name] | {"query": query})
            assert "purchases" not in str(refused.value)
        assert len(read(sources[name]).users) == 4, name


def test_errors_hold_no_row_and_no_password(sources, tmp_path):
    (tmp_path / "broken.csv").write_text('"patient 910005,a,1,2\n')
    (tmp_path / "headless.csv").write_text("910005,a,1,2\n")
    for source in (
        {"source": "csv", "path": str(tmp_path / "broken.csv")},
        {"source": "csv", "path": str(tmp_path / "headless.csv")},
        {"source": "sqlite", "url": sources["sqlite"]["url"], "query": "SELECT 'patient 910005' + nothing"},
        {"source": "postgresql", "url": "postgresql://u:hunter2@127.0.0.1:1/x", "query": QUERY},
    ):
        with pytest.raises(DataFormatError) as refused:
            read(source)
        assert "910005" not in str(refused.value)
        assert "hunter2" not in str(refused.value)
    for source in ({"source": "csv", "path": "none.csv"}, {"source": "sqlite", "url": "none.sqlite", "query": QUERY}):
        with pytest.raises(DataNotFoundError):
            read(source)
    with pytest.raises(DataFormatError, match="customer"):
        read_silo_data(DataSettings(**sources["csv"], user="client", item="sku"), CATALOGUE, PSEUDONYMS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "csv"},
        {"source": "csv", "path": "x", "query": "SELECT 1"},
        {"source": "sqlite", "url": "x"},
        {"source": "mysql", "url": "x", "query": "q"},
        {"source": "csv", "path": "x", "since": "2024-01-01"},
        {"source": "csv", "path": "x", "time": "t", "since": "yesterday"},
        {"source": "csv", "path": "x", "hold_out": "last"},
        {"source": "csv", "path": "x", "minimum_value": 3.0},
        {"source": "csv", "path": "x", "time_unit": "ms"},
        {"source": "csv", "path": "x", "time": "t", "time_unit": "minutes"},
        {"source": "csv", "path": "x", "minimum_history": 0},
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        DataSettings(**wrong)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=20), unique=True, max_size=30))
def test_pseudonyms_are_keyed_distinct_and_for_ever(users):
    again, other = Pseudonyms(SiloSecret.generate()), Pseudonyms(SiloSecret.generate())
    named = [again.of(user) for user in users]
    assert named == [again.of(user) for user in users]
    assert len(set(named)) == len(users)
    assert not set(named) & {other.of(user) for user in users}


def test_one_user_more_changes_no_other_users_history(tmp_path):
    TABLE.to_csv(tmp_path / "whole.csv", index=False)
    TABLE[TABLE.customer != "9"].to_csv(tmp_path / "without.csv", index=False)
    whole, without = (
        as_sets(read({"source": "csv", "path": str(tmp_path / f"{name}.csv")}, minimum_history=1, hold_out="last"))
        for name in ("whole", "without")
    )
    gone = PSEUDONYMS.of("9")
    assert {user: items for user, items in whole.items() if user != gone} == without
