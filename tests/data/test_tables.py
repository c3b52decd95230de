import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.data.sources import Request, read
from recsys_fed.errors import ConfigurationError, DataFormatError

ids = st.text("aZ09é, ;|'\"-_", min_size=1, max_size=6).filter(lambda text: text == text.strip() != "")
tables = st.lists(st.tuples(ids, ids), min_size=1, max_size=8, unique=True)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.csv", "user,item,rating,timestamp"),
        ("a.csv", "userId,movieId,rating,timestamp"),
        ("a.tsv", "user_id\titem_id\tvalue\ttime"),
        ("a.txt", "User ID;Item-ID;Rating;ts"),
        ("a.CSV", "uid|iid|score|unix_time"),
    ],
)
def test_usual_names_and_separators_are_found(tmp_path, name, header):
    separator = next(sign for sign in ",\t;|" if sign in header)
    rows = [header, separator.join(["7", "a", "2.5", "5"]), separator.join(["10", "b", "3", "6"])]
    (tmp_path / name).write_text("\n".join(rows))
    interactions = read(Request(path=tmp_path / name)).interactions
    assert interactions.user_ids.tolist() == ["7", "10"]
    assert interactions.item_ids.tolist() == ["a", "b"]
    assert interactions.value.tolist() == [2.5, 3.0]
    assert interactions.time.tolist() == [5 * 10**9, 6 * 10**9]


def test_columns_can_be_named_and_others_are_left_alone(tmp_path):
    (tmp_path / "a.csv").write_text('who,what,user,note\n1,a,x,"hello, you"\n2,b,y,\n')
    dataset = read(Request(path=tmp_path / "a.csv", columns={"user": "who", "item": "what"}))
    assert dataset.interactions.user_ids.tolist() == ["1", "2"]
    assert dataset.interactions.value is None
    assert dataset.catalogue.item_ids.tolist() == ["a", "b"]


def test_ids_stay_text(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\n007,1e3\n7,NA\n,x\n2,07\n")
    dataset = read(Request(path=tmp_path / "a.csv"))
    assert dataset.interactions.user_ids.tolist() == ["2", "007", "7"]
    assert dataset.interactions.item_ids.tolist() == ["07", "1e3", "NA"]
    assert [(f.rule, f.examples) for f in dataset.report.findings] == [("missing user", ("line 4",))]


def test_a_nan_rating_is_a_note(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,rating\n1,1,NaN\n1,2,\n1,3,4\n")
    dataset = read(Request(path=tmp_path / "a.csv"))
    assert len(dataset.interactions) == 3
    assert dataset.report.findings == ()
    assert [(f.rule, f.count) for f in dataset.report.notes] == [("missing value", 2)]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(ids, ids), min_size=1, max_size=8, unique=True), separator=st.sampled_from(",\t;"))
def test_a_written_table_comes_back(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    pd.DataFrame(rows, columns=["user", "item"]).to_csv(path, sep=separator, index=False)
    inter = read(Request(path=path)).interactions
    back = zip(inter.user_ids[inter.user], inter.item_ids[inter.item], strict=True)
    assert list(back) == rows


def test_parquet_is_read_and_integers_stay_whole(tmp_path):
    frame = pd.DataFrame(
        {"user": pd.array([2**53 + 1, None, 3], dtype="Int64"), "item": ["a", "b", "c"], "time": [1, 2, 3]}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    dataset = read(Request(path=tmp_path / "a.parquet"))
    assert dataset.interactions.user_ids.tolist() == ["3", str(2**53 + 1)]
    assert dataset.report.n_kept == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\n\n", "empty first line"),
        (b"PK\x03\x04\x00\x00", "a byte of zero"),
        (bytes(range(128, 256)) * 4, "a column for user and item"),
        (b"user,item\n", "0 rows read"),
        (b"user,item\n1,2,3\n", "malformed row: 1 rows dropped .line 2."),
        (b"a,b\n1,2\n", "a column for user and item in .*a.csv, got 2 fields in its first line. Name it"),
        (b"user,user\n1,2\n", "a column for item in .*got 2 fields in its first line, among them user, user"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataFormatError, match=message):
        read(Request(path=tmp_path / "a.csv"))


def test_a_first_row_of_data_is_not_shown(tmp_path):
    (tmp_path / "a.csv").write_text("196,alice,3,881250949\n")
    with pytest.raises(DataFormatError, match="got 4 fields in its first line") as caught:
        read(Request(path=tmp_path / "a.csv"))
    assert "alice" not in str(caught.value)


def test_bad_requests_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\n1,2\n")
    with pytest.raises(ConfigurationError, match="user, item, value, time, kind, weight, test, got one for who"):
        read(Request(path=tmp_path / "a.csv", columns={"who": "user"}))
    with pytest.raises(DataFormatError, match=r"column stars in .*among them user, item"):
        read(Request(path=tmp_path / "a.csv", columns={"value": "stars"}))


@pytest.mark.parametrize("name", ["a.parquet", "ratings.parquet"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path, name):
    (tmp_path / name).write_text("user,item\n1,2\n")
    with pytest.raises(DataFormatError, match="Expected Parquet in"):
        read(Request(path=tmp_path / name))


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    path = tmp_path / "a.xls"
    path.write_bytes(b"user,item\n1,2\n")
    with pytest.raises(DataFormatError, match=r"it is none. MovieLens-100K: .* RecBole: .* table: "):
        read(Request(path=path))
    with pytest.raises(DataFormatError, match="it is none"):
        read(Request(path=tmp_path))
