"""A table of an SQLite database as a data set."""

import sqlite3
from contextlib import closing

import pytest

from recsys_fed.data.locate import open_dataset
from recsys_fed.errors import DataFormatError

ROWS = [
    (1, "b", "2024-01-31", 4.0),
    (1.0, "a", "2024-01-30", None),
    (b"2", "a", 1_706_702_400, "x"),
    (None, "a", 1, 1),
]


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('CREATE TABLE "my ""orders" (customer_id, sku, "date", stars)')
        connection.executemany('INSERT INTO "my ""orders" VALUES (?, ?, ?, ?)', ROWS)
    return path


def test_the_only_table_is_read_by_usual_names(shop):
    dataset = open_dataset(str(shop))
    found = dataset.interactions
    pairs = zip(found.user_ids[found.user].tolist(), found.item_ids[found.item].tolist(), strict=True)
    # Rows of a query have no order: they stand by their times.
    assert list(pairs) == [("1", "a"), ("1", "b"), ("2", "a")]
    assert (found.time // 10**9).tolist() == [1_706_572_800, 1_706_659_200, 1_706_702_400]
    assert (dataset.report.n_rows, dataset.report.n_kept) == (4, 3)


def test_one_of_several_tables_is_named(shop):
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("CREATE TABLE other (user, item)")
        connection.execute("INSERT INTO other VALUES ('u', 'i')")
    with pytest.raises(DataFormatError, match=r"#TABLE with one of the tables my .orders, other, got 'none'"):
        open_dataset(str(shop))
    with pytest.raises(DataFormatError, match="got 'third'"):
        open_dataset(f"{shop}#third")
    assert open_dataset(f"{shop}#other").interactions.user_ids.tolist() == ["u"]
    assert open_dataset(f'{shop}#my "orders', columns={"user": "customer_id", "time": ""}).interactions.time is None


def test_what_is_no_database_is_refused(tmp_path):
    (tmp_path / "x.db").write_text("user,item\n1,2\n" * 100)
    with pytest.raises(DataFormatError, match="SQLite"):
        open_dataset(str(tmp_path / "x.db"))
