import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.data.interactions import MISSING_TIME
from recsys_fed.data.readers.interactions import block_of, interactions_of
from recsys_fed.data.readers.reading import Reading
from recsys_fed.errors import DataFormatError

SECOND = 10**9


def validate(frame):
    """Interactions and report of a data frame whose columns are named by their roles."""
    return interactions_of([block_of({**frame})], Reading(path="t"))[:2]


cell = st.one_of(
    st.none(),
    st.integers(-3, 6),
    st.sampled_from(["1", " 1", "a", "", "nan", "1e999", 2.0, 2.5, float("nan"), float("inf"), -float("inf"), 5e12]),
)


def _found(report):
    return {finding.rule: (finding.count, finding.examples) for finding in (*report.findings, *report.notes)}


def test_a_clean_table_is_taken_as_it_is():
    frame = pd.DataFrame({"user": [7, 7, 10], "item": ["b", "a", "b"], "value": [1, 2, 3], "time": [3, 2, 1]})
    interactions, report = validate(frame)
    assert interactions.user_ids.tolist() == ["7", "10"]
    assert interactions.item_ids.tolist() == ["a", "b"]
    assert interactions.user.tolist() == [0, 0, 1]
    assert interactions.item.tolist() == [1, 0, 1]
    assert interactions.value.tolist() == [1.0, 2.0, 3.0]
    assert interactions.time.tolist() == [3 * SECOND, 2 * SECOND, SECOND]
    assert interactions.clock
    assert report.findings == ()
    assert report.table() == ["t: 3 rows read, 3 kept"]


@pytest.mark.parametrize(
    ("column", "bad", "rule"),
    [
        ("user", None, "missing user"),
        ("user", "  ", "missing user"),
        ("user", np.inf, "missing user"),
        ("item", np.nan, "missing item"),
        ("time", -1, "negative time"),
        ("time", 5 * 10**18, "absurd time"),
        ("time", np.inf, "absurd time"),
        ("time", "9999-12-31", "absurd time"),
    ],
)
def test_each_rule_drops_counts_and_explains_its_row(column, bad, rule):
    good = {"user": [1, 2, 3], "item": [1, 2, 3], "value": [1, 1, 1], "time": [1, 1, 1]}
    frame = pd.DataFrame({**good, column: pd.Series([good[column][0], bad, good[column][2]], dtype=object)})
    interactions, report = validate(frame)
    assert _found(report) == {rule: (1, ("row 2",))}
    assert report.kept.tolist() == [True, False, True]
    assert interactions.user_ids.tolist() == ["1", "3"]
    assert report.findings[0].explanation.startswith("Expected")
    assert "1 rows dropped (row 2)" in report.table()[1]


@pytest.mark.parametrize(
    ("column", "bad", "note"),
    [
        ("value", np.nan, "missing value"),
        ("value", None, "missing value"),
        ("value", "five", "unreadable value"),
        ("value", "4/5", "unreadable value"),
        ("value", np.inf, "unreadable value"),
        ("value", -np.inf, "unreadable value"),
        ("value", 1e39, "unreadable value"),
        ("time", np.nan, "missing time"),
        ("time", "yesterday", "unreadable time"),
    ],
)
def test_what_nobody_needs_takes_no_row_with_it(column, bad, note):
    good = {"user": [1, 2, 3], "item": [1, 2, 3], "value": [1, 1, 1], "time": [1, 1, 1]}
    frame = pd.DataFrame({**good, column: pd.Series([good[column][0], bad, good[column][2]], dtype=object)})
    interactions, report = validate(frame)
    assert _found(report) == {note: (1, ("row 2",))}
    assert report.findings == ()
    assert report.kept.all()
    found = getattr(interactions, column)
    assert np.isnan(found[1]) if column == "value" else found[1] == MISSING_TIME
    assert "1 rows kept without it (row 2)" in report.table()[1]


def test_a_column_without_one_time_is_as_good_as_none():
    frame = pd.DataFrame({"user": [1, 2], "item": 1, "time": ["soon", None]})
    interactions, report = validate(frame)
    assert interactions.time is None
    assert report.n_kept == 2


def test_each_number_has_a_unit_of_its_own():
    now = 1_700_000_000
    frame = pd.DataFrame({"user": [1, 2, 3, 4], "item": 1, "time": [now * 1_000, now, 3, 5 * 10**18]})
    interactions, report = validate(frame)
    assert interactions.time.tolist() == [now * SECOND, now * SECOND, 3 * SECOND]
    assert _found(report) == {"absurd time": (1, ("row 4",))}


def test_datetimes_keep_their_fractions():
    when = pd.Series(pd.to_datetime(["1970-01-02 00:00:00.0", None, "1970-01-01 00:00:01.5"]))
    for times in (when, when.dt.tz_localize("UTC")):
        frame = pd.DataFrame({"user": [1, 2, 3], "item": 1, "time": times})
        interactions, report = validate(frame)
        assert interactions.time.tolist() == [86_400 * SECOND, MISSING_TIME, 3 * SECOND // 2]
        assert _found(report) == {"missing time": (1, ("row 2",))}


def test_of_a_repeated_pair_the_latest_stays_and_equal_rows_are_told_apart():
    frame = pd.DataFrame(
        {
            "user": [1, 1, 1, 1, 2, 2],
            "item": [5, 5, 5, 6, 5, 5],
            "value": [1, 2, 3, 4, 5, 6],
            "time": [9, 10, 8, 1, 7, 7],
        }
    )
    interactions, report = validate(pd.concat([frame, frame.iloc[[3]]]))
    assert sorted(interactions.value.tolist()) == [2.0, 4.0, 6.0]
    assert _found(report) == {
        "exact duplicate": (1, ("row 4",)),
        "repeated pair": (3, ("row 1", "row 3", "row 5")),
    }


def test_without_times_the_last_row_of_a_pair_stays():
    frame = pd.DataFrame({"user": [1, 1, 1], "item": [5, 5, 5], "value": [3, 2, 1]})
    interactions, _ = validate(frame)
    assert interactions.value.tolist() == [1.0]


def test_ids_that_are_equal_as_text_are_one_id():
    frame = pd.DataFrame({"user": pd.Series([1, "1", " 1 ", 1.0], dtype=object), "item": [1, 2, 3, 4]})
    interactions, _ = validate(frame)
    assert interactions.user_ids.tolist() == ["1"]


def test_large_integer_ids_beside_a_gap_are_not_rounded():
    ids = pd.array([2**53 + 1, None, 2**53], dtype="Int64")
    interactions, report = validate(pd.DataFrame({"user": ids, "item": 1}))
    assert interactions.user_ids.tolist() == [str(2**53), str(2**53 + 1)]
    assert _found(report) == {"missing user": (1, ("row 2",))}


def test_the_report_holds_row_numbers_and_no_id():
    frame = pd.DataFrame({"user": ["secret-a", "secret-a", None], "item": ["secret-b"] * 3, "value": ["x", "1", "1"]})
    _, report = validate(frame)
    assert "secret" not in "\n".join(report.table()) + repr(report)


def test_a_table_of_which_nothing_is_left_says_why():
    with pytest.raises(DataFormatError, match=r"none is left.(.|\n)*negative time: 2 rows dropped"):
        validate(pd.DataFrame({"user": [1, 2], "item": [1, 2], "time": [-1, -2]}))
    with pytest.raises(DataFormatError, match="0 rows read"):
        validate(pd.DataFrame({"user": [], "item": []}))


def test_a_list_is_no_user_and_several_items():
    interactions, report = validate(pd.DataFrame({"user": [[1], 2], "item": [1, 2]}))
    assert _found(report) == {"missing user": (1, ("row 1",))}
    interactions, report = validate(pd.DataFrame({"user": [1, 2, 3], "item": [["a", "b"], [], ["c", None]]}))
    assert interactions.item_ids.tolist() == ["a", "b", "c"]
    assert interactions.user.tolist() == [0, 0, 1]
    assert _found(report) == {"missing item": (2, ("row 2", "row 3"))}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(cell, cell, cell, cell), min_size=1, max_size=12))
def test_every_row_is_kept_or_counted_once_and_what_is_kept_is_valid(rows):
    columns = zip(*rows, strict=True)
    names = ("user", "item", "value", "time")
    frame = pd.DataFrame({n: pd.Series(c, dtype=object) for n, c in zip(names, columns, strict=True)})
    try:
        interactions, report = validate(frame)
    except DataFormatError as error:
        assert f"{len(rows)} rows read, 0 kept" in str(error)
        return
    assert report.n_rows == len(rows) == report.n_kept + sum(finding.count for finding in report.findings)
    assert len(interactions) == report.n_kept == np.count_nonzero(report.kept)
    pairs = list(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert not np.isinf(interactions.value).any()
    time = interactions.time
    assert time is None or ((time >= 0) | (time == MISSING_TIME)).all()
    assert set(interactions.user.tolist()) == set(range(interactions.n_users))
    assert set(interactions.item.tolist()) == set(range(interactions.n_items))
    again, clean = validate(
        pd.DataFrame(
            {
                "user": interactions.user_ids[interactions.user],
                "item": interactions.item_ids[interactions.item],
                "value": interactions.value,
                "time": None if time is None else [t / SECOND if t >= 0 else None for t in time.tolist()],
            }
        )
    )
    assert clean.findings == ()
    assert again.user.tolist() == interactions.user.tolist()
    assert again.item_ids.tolist() == interactions.item_ids.tolist()


def test_each_pair_of_many_rows_stays_once():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user": rng.integers(0, 500, 200_000), "item": rng.integers(0, 2_000, 200_000), "time": 1})
    interactions, _ = validate(frame)
    assert len(interactions) == len(np.unique(frame["user"].to_numpy() * 2_000 + frame["item"].to_numpy()))
