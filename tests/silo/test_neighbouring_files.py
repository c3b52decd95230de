"""One user more in a file or a table changes nobody else's history, whatever the rows of that user hold."""

import re
import sqlite3
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import new_database

from recsys_fed.audit._hostile_tables import (
    COLUMNS,
    KINDS,
    Notation,
    _pick,
    _typed_cells,
)
from recsys_fed.audit._neighbouring_files import (
    CATALOGUE,
    SOURCES,
    _any_settings,
    _breach_of,
    _histories_of_all,
    _neighbouring_tables,
    _Pair,
    _write_pair,
    neighbouring_files,
    read_by_column,
)
from recsys_fed.errors import DataNotFoundError, MissingColumnError
from recsys_fed.silo.interactions import read_silo_data
from recsys_fed.silo.on_disk import read_stored_data
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import DataSettings

PSEUDONYMS = Pseudonyms(SiloSecret.generate())
SEEDS = st.integers(0, 2**32 - 1)
ALL = (*SOURCES, "postgresql")
FEW, MANY = 20, 334
_numbers = count()


@pytest.fixture(scope="module")
def database():
    return new_database()


def postgresql_pair(rng, url):
    """Two tables with types of their own, their rows in any order."""
    data = _any_settings(rng)
    places = []
    for notation, rows in _neighbouring_tables(rng):
        table = f"purchases_{next(_numbers)}"
        order = rng.permutation(len(rows)).tolist()
        write_table(url, table, notation, [rows[row] for row in order])
        query = f"SELECT {', '.join(COLUMNS.values())} FROM {table}"
        places.append({"source": "postgresql", "url": url, "query": query})
    without, more = (DataSettings(**place, **data) for place in places)
    return _Pair(without=without, with_one_more=more)


def write_table(url, table, notation: Notation, rows):
    import psycopg

    rng = notation.of_table()
    kinds = {role: _pick(rng, KINDS[role]) for role in COLUMNS}
    cells = [_typed_cells(notation, rows, role, kind) for role, kind in kinds.items()]
    types = [f"{COLUMNS[role]} {kind.sql}" for role, kind in kinds.items()]
    far = kinds["time"].sql == "timestamptz" and any(row.newcomer for row in rows)
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE UNLOGGED TABLE {table} ({', '.join(types)})")
        listed = [tuple(None if cell == "\x00" else cell for cell in row) for row in zip(*cells, strict=True)]
        cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s, %s)", listed)
        for when in ("infinity", "-infinity", "294000-01-01", "0044-03-15 BC") if far else ():
            cursor.execute(f"INSERT INTO {table} (at, customer) VALUES ('{when}', '7')")


def no_breach(source, seed, folder, database):
    rng = np.random.default_rng(seed)
    pair = postgresql_pair(rng, database) if source == "postgresql" else _write_pair(rng, source, folder)
    assert _breach_of(rng, pair) is None


def of_source(source, request):
    return request.getfixturevalue("database") if source == "postgresql" else None


@pytest.mark.parametrize("source", ALL)
def test_one_user_more_changes_no_other_users_history(source, request, tmp_path_factory):
    database = of_source(source, request)

    @settings(max_examples=FEW)
    @given(SEEDS)
    def tried(seed):
        no_breach(source, seed, tmp_path_factory.mktemp("pair"), database)

    tried()


@pytest.mark.soak
@pytest.mark.parametrize("source", ALL)
def test_one_user_more_changes_no_other_users_history_in_many_pairs(source, request, tmp_path_factory):
    database = of_source(source, request)
    for seed in range(MANY):
        no_breach(source, seed, tmp_path_factory.mktemp("pair"), database)


def test_a_reader_that_infers_types_by_column_is_found_out():
    right = neighbouring_files(seed=1, pairs=10)
    assert (right["breached"], right["breaches"]) == (0, [])
    assert right["by_source"] == dict.fromkeys(SOURCES, 2)
    broken = neighbouring_files(seed=1, pairs=40, read=read_by_column)
    assert broken["breached"] > 10
    assert {breach["source"] for breach in broken["breaches"]} <= set(SOURCES)
    assert str(broken["breached"]) in broken["found"]


LINES = [
    f"{user},200{item},{value},{1_700_000_000 + 1_000 * item}"
    for user in (1000, 1001)
    for item, value in ((1, 5), (2, 4))
]
NOBODYS = re.compile(rb"(?<![0-9])10[0-9]{2}(?![0-9])")


def read(path_or_place, *, blocks=None, block_rows=1000, **more):
    place = path_or_place if isinstance(path_or_place, dict) else {"source": "csv", "path": str(path_or_place)}
    data = DataSettings(**place, **COLUMNS, block_rows=block_rows, blocks=str(blocks or ""), hold_out="last", **more)
    silo = (read_stored_data if blocks else read_silo_data)(data, CATALOGUE, PSEUDONYMS)
    names = {PSEUDONYMS.of(str(user)): user for user in (1000, 1001)}
    others = {names[user]: items for user, items in _histories_of_all(silo).items() if user in names}
    return others, {finding.rule: finding.count for finding in silo.report.findings}, silo.report


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=60), max_size=5), st.integers(0, 4), st.sampled_from([1, 2, 1000]), st.booleans())
def test_any_bytes_among_the_lines_change_nobodys_history(tmp_path_factory, junk, place, block_rows, on_disk):
    folder = tmp_path_factory.mktemp("bytes")
    lines = [line.encode() for line in LINES]
    lines[place:place] = [line for line in junk if not NOBODYS.search(line)]
    (folder / "t.csv").write_bytes(b"customer,sku,stars,at\n" + b"\n".join(lines))
    others, _, report = read(folder / "t.csv", block_rows=block_rows, blocks=folder / "b" if on_disk else None)
    assert others == {user: (frozenset({1}), frozenset({2})) for user in (1000, 1001)}
    assert report.n_rows == report.n_kept + sum(finding.count for finding in report.findings)


FAULTS = [
    (b"9,2001,5", "malformed row"),
    (b"9,2001,5,1700000000,1", "malformed row"),
    (b'"9,2001,5', "malformed row"),
    (b" ,2001,5,1700000000", "missing user"),
    (b"9,,5,1700000000", "missing item"),
    (b"9,2001,5,", "outside since and until"),
    (b"9,2001,5,soon", "outside since and until"),
    (b"9,2001,5,-1", "negative time"),
    (b"9,2001,5,1969-12-31", "negative time"),
    (b"9,2001,5,9999-12-31", "absurd time"),
    (b"9,2001,5,2100-01-01T00:00:01Z", "absurd time"),
    (b"9,2001,5,inf", "absurd time"),
    (b"9,2001,5,2019-12-31T23:59:59Z", "outside since and until"),
    (b"9,2001,5,1700000000\n9,2001,5,2023-11-14T22:13:20Z", "exact duplicate"),
    (b"9,2001,5,1700000000\n9,2001.0,4,1700000000", "repeated pair"),
]


@pytest.mark.parametrize(("fault", "rule"), FAULTS)
def test_each_fault_is_its_own_rows(fault, rule, tmp_path):
    path = tmp_path / "t.csv"
    lines = ["customer,sku,stars,at", *LINES[:2], fault.decode("latin-1"), *LINES[2:]]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    more = fault.count(b"\n")
    for blocks in (None, tmp_path / "blocks"):
        for block_rows in (1, 1000):
            others, rules, report = read(path, blocks=blocks, block_rows=block_rows, since="2020-01-01")
            assert others == {user: (frozenset({1}), frozenset({2})) for user in (1000, 1001)}
            assert rules == {rule: 1}
            assert (report.n_rows, report.n_kept) == (5 + more, 4 + more)
            if blocks is None:
                assert report.kept.tolist() == [True, True, False, *[True] * (2 + more)]
                assert [finding.examples for finding in report.findings] == [("line 4",)]


NOTED = [
    (b"9,2001,five,1700000000", "unreadable value"),
    (b"9,2001,,1700000000", "missing value"),
    (b"9,2001,inf,1700000000", "unreadable value"),
    (b"9,2001,1e39,1700000000", "unreadable value"),
    (b"9,2001,5,", "missing time"),
    (b"9,2001,5,nan", "missing time"),
    (b"9,2001,5,soon", "unreadable time"),
    (b"9,2001,5,\x00", "unreadable time"),
]


@pytest.mark.parametrize(("line", "note"), NOTED)
def test_what_cannot_be_read_and_is_not_needed_takes_no_row_with_it(line, note, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\n".join(["customer,sku,stars,at", *LINES[:2], line.decode(), *LINES[2:]]).encode())
    for blocks in (None, tmp_path / "blocks"):
        others, rules, report = read(path, blocks=blocks)
        assert others == {user: (frozenset({1}), frozenset({2})) for user in (1000, 1001)}
        assert (rules, report.n_rows, report.n_kept) == ({}, 5, 5)
        assert [(found.rule, found.count, found.examples) for found in report.notes] == [(note, 1, ("line 4",))]


GOOD = "2024-01-31T12:00:00Z"


@pytest.mark.parametrize(
    "times",
    [
        [GOOD, ""], [GOOD, "1700000000"], ["1700000000", GOOD], ["1700000000", "1700000000000", "1700000000000"],
        ["1700000000000", "1", "1", "1"], ["2024-01-31", "2024-01-31T12:00:00+01:00", "1700000000.5"],
    ],
)  # fmt: skip
def test_the_unit_of_a_time_is_its_own_cells(times, tmp_path):
    """What used to fail: an empty time or a number among ISO times, seconds among many milliseconds."""
    for block_rows in (1, 1000):
        found = []
        for users in (1, len(times)):
            lines = ["customer,sku,stars,at"]
            lines += [
                f"{1000 if user == 0 else 9},200{item},5,{times[user]}" for user in range(users) for item in (1, 2)
            ]
            (tmp_path / "t.csv").write_text("\n".join(lines))
            found.append(read(tmp_path / "t.csv", block_rows=block_rows)[0])
        assert found[0] == found[1] == {1000: (frozenset({1}), frozenset({2}))}


def test_fractions_of_a_second_decide_which_is_last(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("customer,sku,stars,at\n1000,2002,5,2024-01-31T12:00:00.000002Z\n1000,2001,5,1706702400.000001\n")
    assert read(path)[0] == {1000: (frozenset({1}), frozenset({2}))}
    assert read(path, since="2024-01-31T12:00:00.000002Z")[0] == {1000: (frozenset({2}), frozenset())}
    assert read(path, until="2024-01-31T12:00:00.000002Z")[0] == {1000: (frozenset({1}), frozenset())}


def test_a_unit_that_is_said_counts_for_all_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("customer,sku,stars,at\n1000,2001,5,1700000000\n1000,2002,5,1970-01-20T16:13:21Z\n")
    assert read(path)[0] == {1000: (frozenset({2}), frozenset({1}))}
    assert read(path, time_unit="ms")[0] == {1000: (frozenset({1}), frozenset({2}))}


def test_the_order_in_which_a_database_answers_means_nothing(tmp_path):
    found = []
    for name, order in (("one", "ASC"), ("other", "DESC")):
        with sqlite3.connect(tmp_path / name) as connection:
            connection.execute("CREATE TABLE t (customer, sku, stars, at)")
            rows = [(1000, item, value, 5) for item, value in (("2001", 5), ("2002", 3), ("2002", 4), ("2003", 5))]
            connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
        place = {"source": "sqlite", "url": str(tmp_path / name), "query": f"SELECT * FROM t ORDER BY rowid {order}"}
        found.append(read(place, minimum_value=4.0)[:2])
    assert found[0] == found[1] == ({1000: (frozenset({1, 2}), frozenset({3}))}, {"repeated pair": 1})


def test_sqlite_holds_cells_of_any_kind(tmp_path):
    rows = [
        (1000, 2001, 5, 1),
        (1000.0, b"2002", "5.0", 2.5),
        ("1000", "2003.0", None, 3),
        (b"1000", "2004", 5, b"\xff"),
    ]
    with sqlite3.connect(tmp_path / "t") as connection:
        connection.execute("CREATE TABLE t (customer, sku, stars, at)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
        connection.execute("INSERT INTO t VALUES (CAST(x'ff' AS TEXT), '2001', 5, 4)")
    place = {"source": "sqlite", "url": str(tmp_path / "t"), "query": "SELECT * FROM t"}
    for block_rows in (1, 1000):
        others, rules, report = read(place, block_rows=block_rows)
        # What has no time is the earliest.
        assert others == {1000: (frozenset({1, 2, 4}), frozenset({3}))}
        assert {note.rule: note.count for note in report.notes} == {"missing value": 1, "unreadable time": 1}
        assert rules == {}


def test_postgresql_holds_what_python_does_not(database):
    rows = (
        "('1000', '2001', 5, timestamptz '2024-01-31 12:00:00+01'), ('1000', '2002', 4, '2024-01-31 12:00:00.5+01'),"
        "('9', '2001', 'NaN', now()), ('9', '2001', 'Infinity', now()), ('9', '2001', 1e300, now()),"
        "('9', '2001', 5, 'infinity'), ('9', '2001', 5, '-infinity'), ('9', '2001', 5, '294000-01-01'),"
        "('9', '2001', 5, '0044-03-15 BC'), (NULL, '2001', 5, now()), ('9', '2001', 5, NULL)"
    )
    query = f"SELECT * FROM (VALUES {rows}) AS t (customer, sku, stars, at)"
    others, rules, report = read({"source": "postgresql", "url": database, "query": query})
    assert others == {1000: (frozenset({1}), frozenset({2}))}
    assert rules == {
        "missing user": 1,
        "negative time": 1,
        "absurd time": 1,
        "exact duplicate": 4,
        "repeated pair": 1,
    }
    assert {note.rule: note.count for note in report.notes} == {
        "missing value": 1,
        "unreadable value": 2,
        "unreadable time": 2,
        "missing time": 1,
    }


@pytest.mark.parametrize(
    "cell", ["array[1]", "jsonb '[1]'", "jsonb 'null'", "NULL::text", "point '(1,2)'", "date 'infinity'"]
)
def test_no_type_of_postgresql_fails(database, cell):
    query = f"SELECT {cell} AS customer, {cell} AS sku, {cell} AS stars, {cell} AS at"
    _, rules, report = read({"source": "postgresql", "url": database, "query": query})
    assert (report.n_rows, report.n_kept + sum(rules.values())) == (1, 1)


def test_json_and_enumerations_of_postgresql_are_ids(database):
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TYPE who AS ENUM ('1000')")
    for user in ("jsonb '\"1000\"'", "jsonb '1000.0'", "'1000'::who", "1000.00::numeric", "'\\x31303030'::bytea"):
        query = f"SELECT {user} AS customer, 2001 AS sku, 5 AS stars, '2024-01-31'::date AS at"
        assert read({"source": "postgresql", "url": database, "query": query})[0] == {
            1000: (frozenset({1}), frozenset())
        }


def test_files_of_a_folder_have_types_of_their_own(tmp_path):
    one = {"customer": [1000, 1001], "sku": ["2001", "2002"], "stars": [5, 5], "at": [1, 2]}
    other = {
        "customer": ["1000", None],
        "sku": [2002.0, 2003.0],
        "stars": ["5", "x"],
        "at": ["1970-01-01 00:00:02", "3"],
    }
    for number, table in enumerate((one, other)):
        pq.write_table(pa.table(table), tmp_path / f"{number}.parquet")
    others, rules, _ = read({"source": "parquet", "path": str(tmp_path)})
    assert others == {1000: (frozenset({1}), frozenset({2})), 1001: (frozenset({2}), frozenset())}
    assert rules == {"missing user": 1}


def test_text_of_parquet_that_is_no_utf8_is_its_own_rows(tmp_path):
    users = pa.array([b"1000", b"\xff\xfe", b"1001"], type=pa.binary()).view(pa.string())
    rest = {"sku": ["2001"] * 3, "stars": [5] * 3, "at": [1] * 3}
    pq.write_table(pa.table({"customer": users} | rest), tmp_path / "t.parquet")
    others, rules, _ = read({"source": "parquet", "path": str(tmp_path / "t.parquet")})
    assert (set(others), rules) == ({1000, 1001}, {})


def test_what_is_missing_from_a_source_is_told_from_what_its_rows_hold(tmp_path):
    (tmp_path / "t.csv").write_text("customer,sku\n1000,2001\n")
    pq.write_table(pa.table({"customer": [1]}), tmp_path / "t.parquet")
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute("CREATE TABLE t (customer)")
    sqlite = {"source": "sqlite", "url": str(tmp_path / "t.sqlite"), "query": "SELECT * FROM t"}
    for place in (tmp_path / "t.csv", {"source": "parquet", "path": str(tmp_path / "t.parquet")}, sqlite):
        with pytest.raises(MissingColumnError):
            read(place)
    (tmp_path / "empty").mkdir()
    for place in (
        tmp_path / "none.csv",
        {"source": "parquet", "path": str(tmp_path / "empty")},
        sqlite | {"url": "none"},
    ):
        with pytest.raises(DataNotFoundError):
            read(place)
