"""What a cell means, by itself: ids, values and times; and whole columns at once mean the same."""

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_fed.data.readers._columns import ids_of, times_of, values_of
from recsys_fed.data.readers.cells import FAR, LATEST, MISSING, UNITS, UNREADABLE, spell_id, time_of, value_of
from recsys_fed.data.readers.products import catalogue_of_table

NOON = 1_706_702_400_000_000_000  # 2024-01-31T12:00:00Z


@pytest.mark.parametrize(
    ("cell", "spelled"),
    [
        (12, "12"),
        (12.0, "12"),
        (Decimal("12.00"), "12"),
        ("12.0", "12"),
        (" 12 ", "12"),
        (b"12.000", "12"),
        ("1.0000000000", "1"),
        (-5.0, "-5"),
        ("-5.0", "-5"),
        ("0.0", "0"),
        (-0.0, "0"),
        ("-0", "-0"),
        ("-0.0", "0"),
        (Decimal("-0.0"), "0"),
        ("007", "007"),
        ("007.0", "007.0"),
        ("12.50", "12.50"),
        (12.5, "12.5"),
        (Decimal("12.50"), "12.5"),
        ("1e3", "1e3"),
        (1e3, "1000"),
        (Decimal("1E+3"), "1000"),
        ("12.", "12."),
        ("u1", "u1"),
        (b"u1", "u1"),
        (bytearray(b"u1"), "u1"),
        (memoryview(b"u1"), "u1"),
        (2**53 + 1, "9007199254740993"),
        (2**80, str(2**80)),
        (Decimal(2**63 + 1), str(2**63 + 1)),
        (np.int64(7), "7"),
        (np.float32(7.0), "7"),
        (True, "True"),
        ("a b", "a b"),
        ("é", "é"),
        ("é".encode(), "é"),
        ("a\x00b", "a\x00b"),
        ('"', '"'),
        (date(2024, 1, 31), "2024-01-31"),
        (None, None),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (Decimal("NaN"), None),
        ("", None),
        (" \t", None),
        (b"", None),
        (b"\xff", "ÿ"),
        (b"caf\xe9", "café"),
        ("\ud800", None),
        ([1], None),
        ((), None),
        ({"a": 1}, None),
        (np.array([1, 2]), None),
        (pd.NA, None),
        (pd.NaT, None),
        (Decimal("1E+5000"), "1E+5000"),
    ],
)
def test_an_id_has_one_spelling(cell, spelled):
    assert spell_id(cell) == spelled


def test_an_integer_too_long_to_be_written_is_no_id():
    assert spell_id(10**5_000) is None


@pytest.mark.parametrize(
    ("cell", "nanos"),
    [
        (1_706_702_400, NOON),
        (1_706_702_400_000, NOON),
        (NOON // 1_000, NOON),
        (NOON, NOON),
        (1_706_702_400.0, NOON),
        ("1706702400", NOON),
        (b"1706702400000", NOON),
        (" 1706702400.0 ", NOON),
        ("1706702400.25", NOON + 250_000_000),
        (1_706_702_400_000.5, NOON + 500_000),
        (Decimal("1706702400.000000001"), NOON + 1),
        (1_706_702_400_000_000_999, NOON + 999),
        ("1.7067024e9", NOON),
        ("+1706702400", NOON),
        ("2024-01-31T12:00:00Z", NOON),
        ("2024-01-31 12:00:00", NOON),
        ("2024-01-31T12:00", NOON),
        ("2024-01-31T13:00:00+01:00", NOON),
        ("2024-01-31 10:30:00-0130", NOON),
        ("2024-01-31 12:00:00+00", NOON),
        ("2024-01-31 12:00:00 +00:00", NOON),
        ("1706702400.123456789", NOON + 123_456_789),
        ("1706702400,5", NOON + 500_000_000),
        (1_706_702_400.5, NOON + 500_000_000),
        ("2024-01-31T12:00:00.000001Z", NOON + 1_000),
        ("2024-01-31T12:00:00.0000000019", NOON + 1),
        ("2024-01-31T12:00:00,5", NOON + 500_000_000),
        ("20240131T120000Z", NOON),
        ("2024-01-31", NOON - 43_200_000_000_000),
        (date(2024, 1, 31), NOON - 43_200_000_000_000),
        ("2024-01", NOON - 30 * 86_400_000_000_000 - 43_200_000_000_000),
        (datetime(2024, 1, 31, 12), NOON),
        (datetime(2024, 1, 31, 12, tzinfo=UTC), NOON),
        (datetime(2024, 1, 31, 13, tzinfo=timezone(timedelta(hours=1))), NOON),
        (0, 0),
        ("0", 0),
        (-1, -1_000_000_000),
        ("9999-12-31", FAR),
        (datetime(9999, 12, 31), FAR),
        ("9999-12-31T23:59:59-14:00", FAR),
        ("0001-01-01T00:00:00+14:00", -FAR),
        (math.inf, FAR),
        ("-inf", -FAR),
        (1e300, FAR),
        ("9" * 400, FAR),
        (None, MISSING),
        ("", MISSING),
        (b" ", MISSING),
        (math.nan, MISSING),
        ("nan", MISSING),
        (Decimal("NaN"), MISSING),
        ("yesterday", UNREADABLE),
        (b"\xff", UNREADABLE),
        ("2024-02-30", UNREADABLE),
        ("2024-01-31T24:01:00", UNREADABLE),
        ("2024-01-31T12:00:00+25:00", UNREADABLE),
        ("12:00", UNREADABLE),
        ("2024-01-31 12:00:00 UTC", NOON),
        ("2024-01-31 12:00:00.5 GMT", NOON + 500_000_000),
        ("2024/01/31 12:00", NOON),
        ("31.1.2024 12:00", NOON),
        ("31.01.2024", NOON - 43_200_000_000_000),
        ("1/31/2024 12:00:00 PM", NOON),
        ("1/31/2024 1:00 PM", NOON + 3_600_000_000_000),
        ("1/31/2024 12:00:00 AM", NOON - 43_200_000_000_000),
        ("01 31, 2024", NOON - 43_200_000_000_000),
        ("Wed Jan 31 12:00:00 +0000 2024", NOON),
        ("Wed Jan 31 04:00:00 -0800 2024", NOON),
        ("Wed, 31 Jan 2024 12:00:00 GMT", NOON),
        ("January 31, 2024", NOON - 43_200_000_000_000),
        ("31 Jan 2024", NOON - 43_200_000_000_000),
        ("31/01/2024", UNREADABLE),
        ("1/2/2024", UNREADABLE),
        ("13/31/2024 1:00 PM", UNREADABLE),
        ("1/31/2024 13:00 PM", UNREADABLE),
        ("Wed Foo 31 12:00:00 2024", UNREADABLE),
        ("1,600,000", 1_600_000_000_000_000),
        ("2024-01-31T12:00:00[Europe/Paris]", UNREADABLE),
        ("1_0", UNREADABLE),
        (True, UNREADABLE),
        ([1], UNREADABLE),
        (time(12), UNREADABLE),
        (timedelta(1), UNREADABLE),
        ("\x00", UNREADABLE),
    ],
)
def test_a_time_is_read_by_its_own_cell(cell, nanos):
    assert time_of(cell) == nanos


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_a_unit_that_is_said_holds_for_numbers_of_any_size(unit, per_second):
    assert time_of(3 * per_second, unit) == 3 * 10**9
    assert time_of(f"{3 * per_second}", unit) == 3 * 10**9
    assert time_of(NOON // 10**9 * per_second, unit) == NOON
    assert time_of("2024-01-31T12:00:00Z", unit) == NOON
    assert time_of(10**17, unit) > LATEST or unit == "ns"


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (4, 4.0),
        (4.5, 4.5),
        ("4.50", 4.5),
        (b" 4.5 ", 4.5),
        (Decimal("4.5"), 4.5),
        (True, 1.0),
        ("1e2", 100.0),
        ("-.5", -0.5),
        ("1e999", math.inf),
        ("-inf", -math.inf),
        (10**400, math.inf),
        ("five", None),
        ("1_0", None),
        ("٣", None),
        (b"\xff", None),
        ([1], None),
        (date(2024, 1, 31), None),
        ("2024-01-31", None),
        ("4,5", 4.5),
        ("-0,250", -0.25),
        ("1,234", None),
        ("1,234.5", 1234.5),
        ("1.234,5", 1234.5),
        ("1,234,567", 1_234_567.0),
        ("4/5", None),
        ("true", None),
    ],
)
def test_a_value_is_a_number(cell, value):
    assert value_of(cell) == value


@pytest.mark.parametrize("cell", [None, "", b"", " ", math.nan, "NaN", Decimal("NaN"), Decimal("sNaN")])
def test_an_empty_cell_has_no_value(cell):
    assert math.isnan(value_of(cell))


texts = st.one_of(
    st.integers(-5, 10**20).map(str),
    st.datetimes().map(str),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    st.tuples(
        st.sampled_from(["0000", "1969", "2023", "2024", "9999"]),
        st.sampled_from(["00", "02", "12", "13"]),
        st.sampled_from(["00", "01", "29", "31", "32"]),
        st.sampled_from("T tX"),
        st.sampled_from(["00:00:00", "23:59:59", "24:00:00", "12:60:00"]),
        st.sampled_from(
            ["", "Z", " ", " Z", "z", "+01:00", "-0930", "+24:00", "+01", ".5", ",123456789", "é", "\x00"]
        ),
    ).map(lambda parts: "{}-{}-{}{}{}{}".format(*parts)),
    st.floats().map(str),
    st.text(max_size=25),
)
columns = st.one_of(
    st.lists(st.one_of(st.none(), texts.map(str.encode), st.binary(max_size=25)), max_size=20).map(
        lambda cells: pa.array(cells, type=pa.binary())
    ),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2 * 10**12))).map(
        lambda cells: pa.array(cells, type=pa.int64())
    ),
    st.lists(st.one_of(st.none(), st.floats(), st.integers(0, 10**18).map(float))).map(
        lambda cells: pa.array(cells, type=pa.float64())
    ),
    st.lists(st.one_of(st.none(), st.datetimes())).map(lambda cells: pa.array(cells, type=pa.timestamp("us", "UTC"))),
    st.lists(st.one_of(st.none(), st.dates())).map(lambda cells: pa.array(cells, type=pa.date32())),
    st.lists(st.one_of(st.none(), st.booleans())).map(lambda cells: pa.array(cells, type=pa.bool_())),
    st.lists(st.one_of(st.none(), st.decimals(-(10**9), 10**9, places=3))).map(
        lambda cells: pa.array(cells, type=pa.decimal128(30, 3))
    ),
)


@given(columns, st.sampled_from(UNITS))
def test_a_column_at_once_means_what_its_cells_mean(column, unit):
    cells = column.to_pylist()
    assert times_of(column, unit).tolist() == [time_of(cell, unit) for cell in cells]
    assert times_of(cells, unit).tolist() == times_of(column, unit).tolist()
    values = [value_of(cell) for cell in cells]
    found = values_of(column)
    assert found.unreadable.tolist() == [value is None for value in values]
    assert found.missing.tolist() == [value is not None and math.isnan(value) for value in values]
    assert np.array_equal(found.values, [math.nan if value is None else value for value in values], equal_nan=True)
    if not pa.types.is_temporal(column.type):
        for form in (column, cells):
            ids = ids_of(form)
            assert [ids.ids[code] if code >= 0 else None for code in ids.codes] == [spell_id(cell) for cell in cells]


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 3), st.sampled_from([1.0, True, "1", b"1", "a", [1], Decimal(1)])))
)
def test_equal_objects_of_other_kinds_are_told_apart(cells):
    ids = ids_of(cells)
    assert [ids.ids[code] if code >= 0 else None for code in ids.codes] == [spell_id(cell) for cell in cells]
    assert times_of(cells).tolist() == [time_of(cell) for cell in cells]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["u1", None, "12.0"], type=kind)
        for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))
    ]
    + [pa.array([b"u1", None, b"12.0"], type=kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())],
)
def test_all_kinds_of_text_are_one(column):
    found = ids_of(column)
    assert ([*found.ids], found.codes.tolist()) == (["u1", "12"], [0, -1, 1])
    assert times_of(column).tolist() == [UNREADABLE, MISSING, 12_000_000_000]


@pytest.mark.parametrize(
    ("column", "nanos"),
    [
        (pa.array([2**62, None], pa.int64()).view(pa.timestamp("s", "Nowhere/Else")), [FAR, MISSING]),
        (pa.array([-(2**31), None], pa.int32()).view(pa.date32()), [-FAR, MISSING]),
        (pa.array([86_400_000], pa.int64()).view(pa.date64()), [86_400_000_000_000]),
        (pa.array([2**64 - 1], pa.uint64()), [FAR]),
        (pa.array([[1], None]), [UNREADABLE, MISSING]),
        (pa.nulls(1), [MISSING]),
        (pa.array([time(12)]), [UNREADABLE]),
    ],
)
def test_no_column_type_fails(column, nanos):
    assert times_of(column).tolist() == nanos
    assert len(ids_of(column).codes) == len(values_of(column).values) == len(column)


def test_a_catalogue_of_a_table_spells_ids_as_interactions_are(tmp_path):
    whole = [2**53 + 1, 12, 7]
    pd.DataFrame({"item": whole}).to_parquet(tmp_path / "whole.parquet")
    (tmp_path / "text.csv").write_text("item\n9007199254740993\n12.0\n7.00\n")
    for name in ("whole.parquet", "text.csv"):
        assert catalogue_of_table(tmp_path / name).item_ids.tolist() == [str(item) for item in whole]
