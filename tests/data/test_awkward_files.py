"""Each thing that goes wrong in files of interactions and of items, with what is right, through every door."""

import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import run_command
from doors import Entry, in_silo, silo_settings, through_all

from recsys_fed.data.locate import open_dataset
from recsys_fed.data.readers.products import catalogue_of_table
from recsys_fed.data.split import leave_last_out
from recsys_fed.errors import DataError, DataFormatError, DataNotFoundError, MissingColumnError
from recsys_fed.silo.settings import DataSettings

SECOND = 10**9
NOON = 1_706_702_400 * SECOND  # 2024-01-31T12:00:00Z


@pytest.fixture
def doors(tmp_path):
    """Write a file, and read it through all doors."""

    def read(content, name="t.csv", **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return through_all(path, folder=tmp_path / "blocks", **options)

    return read


def report_of(path, **options):
    """Rule -> places, of a simulation's report."""
    report = open_dataset(str(path), **options).report
    return {found.rule: found.examples for found in (*report.findings, *report.notes)}


def test_a_quote_that_never_closes_is_a_letter(doors):
    given = doors('user\titem\nu1\t"Heroes\nu2\tb\nu3\tc\nu4\t"Low\nu5\td\n', "t.tsv")
    assert given.n_rows == given.n_kept == 5
    items = {"u1": '"Heroes', "u2": "b", "u3": "c", "u4": '"Low', "u5": "d"}
    assert given.users(*items)
    assert all(given.items_of(user) == [item] for user, item in items.items())


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ("u2,b,5,", 3),
        ("u2,b,5,,", 3),
        ('u2,b,5,""', 3),
        ("u2,b,5,x", 2),
        ("u2,b,5,,x", 2),
        ("u2,b", 2),
        ("x" * (2**20 + 1), 2),
    ],
)
def test_more_fields_than_the_header_has_are_read_where_they_are_empty(row, kept, doors, tmp_path):
    given = doors(f"user,item,rating\nu1,a,5\n{row}\nu3,c,4\n")
    assert (given.n_rows, given.n_kept) == (3, kept)
    assert report_of(tmp_path / "t.csv") == ({} if kept == 3 else {"malformed row": ("line 3",)})


def test_row_names_before_the_columns_are_malformed_and_named(tmp_path):
    """The layout of R's write.table: its header lacks the name of the row names."""
    (tmp_path / "t.csv").write_text('"user","item","rating"\n"1","u1","a",5\n"2","u2","b",4\n')
    with pytest.raises(DataFormatError, match=r"none is left(.|\n)*malformed row: 2 rows dropped .line 2, line 3."):
        open_dataset(str(tmp_path / "t.csv"))
    code, _, err = run_command("simulate", "--data", tmp_path / "t.csv")
    assert (code, "line 2, line 3" in err, "u1" in err) == (2, True, False)


def held_out(path, folder):
    """What is kept away as the last of each user, in a simulation and in both doors of a silo: they agree."""
    dataset = open_dataset(str(path))
    interactions, items = dataset.interactions, dataset.interactions.item_ids
    last = leave_last_out(interactions)
    train = set(items[interactions.item[~last]])
    for blocks in ("", str(folder / "blocks")):
        settings = DataSettings(**silo_settings(path), hold_out="last", blocks=blocks)
        silo = in_silo(settings, dataset.catalogue)
        assert {entry.item for some in silo.histories.values() for entry in some} == train
    return set(items[interactions.item[last]])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("1600000100.1", "1600000100.9"),
        ("1600000100.000000001", "1600000100.000000002"),
        ("2020-09-13T12:28:20.000000001Z", "2020-09-13T12:28:20.000000002Z"),
        ("2020-09-13T12:28:20.1Z", "2020-09-13T14:28:20.2+02:00"),
        ("1600000100000", "1600000100.001"),
        ("", "0"),
        ("soon", "1600000100"),
        ("1600000100", "1600000100"),
    ],
)
def test_fractions_of_seconds_decide_which_is_last(earlier, later, tmp_path):
    for rows in ([("NOT", earlier), ("LAST", later)], [("LAST", later), ("NOT", earlier)]):
        text = "user,item,timestamp\nu1,x,0\n" + "".join(f"u1,{item},{time}\n" for item, time in rows)
        (tmp_path / "t.csv").write_text(text)
        assert held_out(tmp_path / "t.csv", tmp_path) == {rows[-1][0] if earlier == later else "LAST"}


def test_nanoseconds_of_parquet_decide_which_is_last(tmp_path):
    for one, other in ((2, 1), (1, 2)):
        times = pa.array([0, NOON + one, NOON + other], pa.timestamp("ns", tz="Europe/Berlin"))
        table = pa.table({"user": ["u1"] * 3, "item": ["x", "a", "b"], "date": times})
        pq.write_table(table, tmp_path / "t.parquet")
        assert held_out(tmp_path / "t.parquet", tmp_path) == {"a" if one > other else "b"}


@pytest.mark.parametrize(
    "users",
    [
        [12, 13], [12.0, 13.0], ["12", " 13 "], ["12.0", "13.00"], [b"12", b"13"],
        pa.array([1200, 1300], pa.int32()).cast(pa.decimal128(12, 2)).to_pylist(),
        pa.array([12, 13], pa.uint8()), pa.array(["12", "13"]).dictionary_encode(),
        pa.array([12, 13], pa.decimal128(20, 3)), pa.array([12, 13], pa.decimal32(5, 2)),
    ],
)  # fmt: skip
def test_ids_have_one_spelling(users, tmp_path):
    factor = 100 if not isinstance(users, pa.Array) and str(users[0]).startswith("1200") else 1
    users = [user / factor for user in users] if factor > 1 else users
    pq.write_table(pa.table({"user": users, "item": users}), tmp_path / "t.parquet")
    given = through_all(tmp_path / "t.parquet", folder=tmp_path / "blocks")
    assert given.users("12", "13")
    assert given.items_of("12") == ["12"]


def test_12_and_12_0_are_one_user_of_one_item(doors, tmp_path):
    given = doors("user,item\n12.0,7\n12,7.0\n 12.00 ,8\n012,7\n12.5,7\n")
    assert given.users("12", "012", "12.5")
    assert set(given.items_of("12")) == {"7", "8"}
    assert given.rules == {"exact duplicate": 1}
    pd.DataFrame({"item": [7.0, 8.0], "title": ["Seven", "Eight"]}).to_parquet(tmp_path / "items.parquet")
    catalogue = catalogue_of_table(tmp_path / "items.parquet")
    silo = in_silo(DataSettings(**silo_settings(tmp_path / "t.csv")), catalogue)
    assert set(silo.items_of("12")) == {"7", "8"}


def test_optional_columns_by_their_usual_names_take_no_row_with_them(doors, tmp_path):
    rows = [
        "a,4/5,2024-01-31",
        'b,"4,5",2024-01-31T12:00:00.5Z',
        "c,five,soon",
        "d,,",
        "e,inf,01/02/2024",
        "f,nan,nan",
    ]
    given = doors("user,item,rating,timestamp\n" + "".join(f"u,{row}\n" for row in rows))
    assert given.n_kept == 6
    assert given.of("u") == [
        Entry("c"), Entry("d"), Entry("e"), Entry("f"),
        Entry("a", NOON - 43_200 * SECOND), Entry("b", NOON + SECOND // 2, 4.5),
    ]  # fmt: skip
    assert given.notes == {"unreadable value": 3, "missing value": 2, "unreadable time": 2, "missing time": 2}
    assert report_of(tmp_path / "t.csv")["unreadable time"] == ("line 4", "line 6")


def test_a_role_can_be_switched_off(doors):
    text = "user,item,rating,timestamp\nu,a,5,2\nu,b,4,-1\n"
    given = doors(text, columns="time=,value=")
    assert set(given.of("u")) == {Entry("a"), Entry("b")}
    assert not given.ordered
    assert doors(text).rules == {"negative time": 1}


def test_a_time_after_2100_is_absurd_whatever_writes_it(doors, tmp_path):
    for time in ("9999-12-31", "9999-12-31T23:59:59Z", "253402300799", "2100-01-01T00:00:01Z", "1e30"):
        given = doors(f"user,item,timestamp\nu,a,2100-01-01\nu,b,{time}\n", columns="time=timestamp")
        # As a number without a unit 9999-12-31 may be milliseconds of 1978.
        assert given.rules == ({} if time.isdecimal() else {"absurd time": 1}), time
    times = pa.array([0, 253_402_300_799], pa.timestamp("s"))
    pq.write_table(pa.table({"user": ["u", "u"], "item": ["a", "b"], "time": times}), tmp_path / "t.parquet")
    assert through_all(tmp_path / "t.parquet", folder=tmp_path / "blocks").rules == {"absurd time": 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "ann@example.org,12 Main Street,3,881250949\n2,b,3,881250949\n"),
        ("t.tsv", "ann@example.org\t12 Main Street\n"),
        ("t.txt", "ann@example.org lives\n"),
        ("t.csv", '"ann@example.org,12 Main Street\n'),
        ("t.csv", "user,ann@example.org\n"),
        ("t.jsonl", '{"ann@example.org": ["12 Main Street"]}\n'),
        ("t.jsonl", '"ann@example.org"\n'),
        ("t.parquet", "ann@example.org"),
    ],
)
def test_an_error_never_shows_a_cell(name, content, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    source = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "json"}.get(path.suffix, "parquet")
    with pytest.raises(DataError) as simulated:
        open_dataset(str(path))
    said = [str(simulated.value)]
    for blocks in ("", str(tmp_path / "blocks")):
        data = DataSettings(source=source, path=str(path), blocks=blocks)
        if source == "json":
            # An object may lack any field: which there are may follow from somebody's row.
            assert in_silo(data, catalogue_of_items(tmp_path)).histories == {}
            continue
        with pytest.raises(DataError) as silo:
            in_silo(data, catalogue_of_items(tmp_path))
        said.append(str(silo.value))
    code, out, err = run_command("simulate", "--data", path)
    assert code == 2
    for text in (*said, out, err):
        assert "ann" not in text
        assert "Street" not in text


def catalogue_of_items(folder, *items):
    """A small catalogue."""
    (folder / "items.csv").write_text("\n".join(["item", *(items or ("a",))]))
    return catalogue_of_table(folder / "items.csv")


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("t.txt", '"note; more; and; more",user,item', "x,u,a"),
        ("t.csv", '"a|b|c|d",user,item', "x,u,a"),
        ("t.tsv", '"a,b,c,d"\tuser\titem', "x\tu\ta"),
        ("t.dat", '"a,b";"c::d";user;item', "x;y;u;a"),
        ("t.txt", '"note;more",user,item', "x,u,a"),
        ("t.csv", 'say "a;b;c;d,user,item', "x,u,a"),
    ],
)
def test_a_separator_is_not_guessed_from_inside_quotes(name, header, row, doors):
    if header.startswith("say"):
        # Quotes that do not close are letters, and so is what follows them.
        with pytest.raises(MissingColumnError):
            doors(f"{header}\n{row}\n", name)
        return
    assert doors(f"{header}\n{row}\n", name).items_of("u") == ["a"]


def test_names_that_occur_twice_matter_where_they_are_needed(doors):
    text = "user,item,note,note\nu,a,1,2\n"
    assert doors(text).items_of("u") == ["a"]
    text = "user,item,item\nu,a,b\n"
    assert doors(text).items_of("u") == ["a"]
    with pytest.raises(MissingColumnError, match=r"column item once in .*, it stands there 2 times"):
        doors(text, columns="item=item")


def test_positions_are_no_clock_times_however_their_column_is_named(doors):
    text = "user,item,time_rank,note\nu,a,7,x\nu,b,3,x\n"
    for columns in ("", "time=time_rank", "user=user,item=item,time=2"):
        assert doors(text, columns=columns).of("u") == [Entry("b"), Entry("a")]


@pytest.mark.parametrize("zeros", [["-0.0", '"0"', "0.0"], ["0.0", "-0.0", "null"], ["0", '"-0"', "-0.0"]])
def test_a_zero_has_no_sign_that_another_row_decides(zeros, doors):
    text = "".join(f'{{"user": {user}, "item": "a", "value": {zero}}}\n' for user, zero in enumerate(zeros))
    for block_rows in (1, 2, 1000):
        given = doors(text, "t.jsonl", block_rows=block_rows)
        assert [str(given.of(str(user))[0].value) for user in range(2)] == ["0.0", "0.0"]


def test_of_a_repeated_pair_the_kind_goes_before_the_time(doors):
    text = "user,item,event,timestamp\nu,a,buy,1\nu,a,view,3\nu,a,buy,2\nu,a,buy,2\nu,b,view,9\n"
    given = doors(text, kinds="view=0.5,buy=1")
    assert given.of("u") == [Entry("a", 2 * SECOND, weight=1.0), Entry("b", 9 * SECOND, weight=0.5)]
    assert given.rules == {"exact duplicate": 1, "repeated pair": 2}


def test_a_cell_may_hold_a_list(doors, tmp_path):
    text = "user,item,timestamp\nu,a b  c,1\nv,,2\nw, d ,3\n"
    given = doors(text, form="lists=blank")
    assert given.items_of("u") == ["a", "b", "c"]
    assert (given.n_rows, given.rules) == (5, {"missing item": 1})
    assert doors(text).items_of("u") == ["a b  c"]
    rows = '{"user": "u", "item": ["a", 2, 2.0, null, ["x"]], "time": 1}\n{"user": "v", "item": [], "time": 1}\n'
    given = doors(rows, "t.jsonl")
    assert given.items_of("u") == ["a", "2"]
    assert given.rules == {"missing item": 3, "exact duplicate": 1}
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        pq.write_table(pa.table({"user": ["u"], "item": pa.array(["a b"], kind)}), tmp_path / "t.parquet")
        given = through_all(tmp_path / "t.parquet", form="lists=blank", folder=tmp_path / "blocks")
        assert set(given.items_of("u")) == {"a", "b"}


@pytest.mark.parametrize(
    ("encoding", "form"),
    [
        ("utf-16", ""),
        ("utf-8-sig", ""),
        ("utf-16-le", "encoding=utf-16-le"),
        ("utf-16-be", "encoding=utf-16-be"),
        ("cp1251", "encoding=cp1251"),
    ],
)
def test_other_encodings_are_read(encoding, form, doors):
    given = doors("user,item\nИван,жук\n".encode(encoding), form=form)
    assert given.items_of("Иван") == ["жук"]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.csv.gz", "t.inter"])
def test_an_empty_file_is_an_error_that_says_so(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    for read in (
        open_dataset,
        lambda spec: in_silo(DataSettings(**silo_settings(path)), catalogue_of_items(tmp_path)),
    ):
        with pytest.raises(DataFormatError, match=r"an empty file|hold none|Expected Parquet"):
            read(str(path))


def test_a_header_alone_is_no_interaction(doors, tmp_path):
    assert doors("user,item\n").n_rows == 0
    with pytest.raises(DataFormatError, match="none is left"):
        open_dataset(str(tmp_path / "t.csv"))


def test_a_folder_of_parts_is_one_table(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "part-0.csv").write_text("user,item\nu,a\nu\n")
    (folder / "part-1.csv").write_text("item;user\nb;u\n")
    (folder / "_SUCCESS").write_text("")
    (folder / "other.csv").write_text("user,item\nnobody,a\n")
    given = through_all(folder, folder=tmp_path / "blocks")
    assert given.users("u")
    assert set(given.items_of("u")) == {"a", "b"}
    assert report_of(folder) == {"malformed row": ("part-0.csv line 3",)}
    (folder / "part-2.csv").write_text("item,who\nc,u\n")
    with pytest.raises(MissingColumnError, match=r"part-2\.csv"):
        open_dataset(str(folder))
    with pytest.raises(DataNotFoundError):
        in_silo(DataSettings(source="csv", path=str(tmp_path)), catalogue_of_items(tmp_path))


def test_an_atomic_file_is_the_same_in_a_silo(doors):
    text = 'user_id:token\titem_id:token\ttimestamp:float\nu\t"a"\t2\nu\tb\t1.5\n'
    assert doors(text, "t.inter").of("u") == [Entry("b", SECOND * 3 // 2), Entry('"a"', 2 * SECOND)]


def test_an_index_of_pandas_and_dotted_names_are_columns(tmp_path):
    frame = pd.DataFrame({"item": ["a", "b"], "user.name": ["x", "y"], "user": ["u", "v"]}).set_index("user")
    frame.to_parquet(tmp_path / "t.parquet")
    given = through_all(tmp_path / "t.parquet", folder=tmp_path / "blocks")
    assert given.users("u", "v")


@pytest.mark.parametrize(
    ("name", "histories"),
    [
        ("f1_quotes.tsv", {"u1": ['"Heroes'], "u2": ["b"], "u3": ["c"], "u4": ['"Low'], "u5": ["d"]}),
        ("f3_iso.csv", {"u1": ["a", "b"], "u2": ["a"]}),
        ("f4_index.parquet", {"u1": ["a", "b"], "u2": ["a"], "u3": ["c"]}),
        ("f5_subsecond.csv", {"u1": ["x", "NOT", "LAST"]}),
        ("f6_binary.parquet", {"u1": ["a", "b"], "u2": ["a"], "u3": ["c"]}),
        ("f6_decimal.parquet", {"1": ["a", "b"], "2": ["a"], "3": ["c"]}),
        ("f7_float_text_ids.csv", {"1": ["10"], "2": ["10"]}),
        ("f8_9999.parquet", {"u1": ["a", "b"], "u2": ["a"]}),
    ],
)
def test_the_files_that_were_met(real, name, histories, tmp_path):
    given = through_all(real(f"cases/{name}"), folder=tmp_path / "blocks")
    assert given.users(*histories)
    assert {user: given.items_of(user) for user in histories} == histories
    assert given.rules == {
        "f8_9999.parquet": {"absurd time": 1},
        "f7_float_text_ids.csv": {"exact duplicate": 1},
    }.get(name, {})
