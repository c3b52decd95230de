"""Public data sets as they are published, in small: read by the options of the command line, through every door."""

import gzip
import json
from datetime import UTC, datetime

import pytest
from command_line import json_of, run_command
from doors import Entry, through_all

from recsys_fed.data.locate import open_dataset

SECOND = 10**9


def at(*when, zone=UTC):
    """Nanoseconds of a moment."""
    return int(datetime(*when, tzinfo=zone).timestamp()) * SECOND


def write(path, text, *, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def movielens_100k(folder):
    write(folder / "u.item", "1|Café (1995)|01-Jan-1995||http://a|0|1\n2|B|||x|1|0\n", encoding="latin-1")
    write(folder / "u.genre", "Drama|0\nComedy|1\n")
    write(folder / "u.data", "196\t2\t3\t881250949\n196\t1\t5\t881250950\n22\t1\t1\t878887116\n")


def movielens_1m(folder):
    write(folder / "movies.dat", "1::Café (1995)::Comedy\n2::B::Drama\n", encoding="latin-1")
    write(folder / "ratings.dat", "196::2::3::881250949\n196::1::5::881250950\n22::1::1::878887116\n")


def movielens_10m(folder):
    write(folder / "movies.dat", "1::Café (1995)::Comedy\n2::B::Drama\n")
    write(folder / "tags.dat", "15::4973::excellent!::1215184630\n")
    write(folder / "ratings.dat", "196::2::3::881250949\n196::1::5::881250950\n22::1::1::878887116\n")


def movielens_latest(folder):
    write(folder / "movies.csv", 'movieId,title,genres\r\n1,"Café (1995)",Comedy\r\n2,B,Drama\r\n')
    write(folder / "tags.csv", "userId,movieId,tag,timestamp\r\n2,60756,funny,1445714994\r\n")
    write(folder / "links.csv", "movieId,imdbId,tmdbId\r\n1,0114709,862\r\n")
    rows = "196,2,3.0,881250949\r\n196,1,5.0,881250950\r\n22,1,1.0,878887116\r\n"
    write(folder / "ratings.csv", "userId,movieId,rating,timestamp\r\n" + rows)


@pytest.mark.parametrize(
    ("make", "file", "columns", "form"),
    [
        (movielens_100k, "u.data", "user=0,item=1,value=2,time=3", "separator=tab"),
        (movielens_1m, "ratings.dat", "user=0,item=1,value=2,time=3", ""),
        (movielens_10m, "ratings.dat", "user=0,item=1,value=2,time=3", ""),
        (movielens_latest, "ratings.csv", "", ""),
    ],
)
def test_movielens_is_a_folder_to_a_simulation_and_a_file_to_a_silo(make, file, columns, form, tmp_path):
    make(tmp_path / "set")
    dataset = open_dataset(str(tmp_path / "set"))
    assert dataset.catalogue.titles == ("Café (1995)", "B")
    assert dataset.catalogue.categories == (("Comedy",), ("Drama",))
    assert dataset.interactions.time.tolist() == [881250949 * SECOND, 881250950 * SECOND, 878887116 * SECOND]
    assert dataset.report.findings == dataset.report.notes == ()
    # A name that no layout has, so that the simulation reads the same file as a plain table.
    plain = (tmp_path / "set" / file).rename(tmp_path / f"plain.{file.rpartition('.')[2]}")
    given = through_all(plain, columns=columns, form=form, folder=tmp_path / "blocks")
    assert given.users("196", "22")
    assert given.of("196") == [Entry("2", 881250949 * SECOND, 3.0), Entry("1", 881250950 * SECOND, 5.0)]
    assert given.of("22") == [Entry("1", 878887116 * SECOND, 1.0)]
    users, items = dataset.interactions.user_ids, dataset.interactions.item_ids
    pairs = zip(users[dataset.interactions.user], items[dataset.interactions.item], strict=True)
    assert list(pairs) == [("196", "2"), ("196", "1"), ("22", "1")]


def test_amazon_reviews(tmp_path):
    rows = "A2CX7LUOHB2NDG,0321732944,5.0,1341100800\nA2NWSAGRHCP8N5,0439886341,1.0,1367193600\n"
    path = write(tmp_path / "ratings_Books.csv", rows + "A2CX7LUOHB2NDG,0439893577,3.0,1341100799\n")
    given = through_all(path, columns="user=0,item=1,value=2,time=3", folder=tmp_path / "blocks")
    assert given.users("A2CX7LUOHB2NDG", "A2NWSAGRHCP8N5")
    assert given.of("A2CX7LUOHB2NDG") == [
        Entry("0439893577", at(2012, 6, 30, 23, 59, 59), 3.0),
        Entry("0321732944", at(2012, 7, 1), 5.0),
    ]
    assert (given.n_rows, given.rules, given.notes) == (3, {}, {})


def test_last_fm(tmp_path):
    path = write(tmp_path / "user_artists.dat", "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n3\t51\t1\n")
    given = through_all(path, folder=tmp_path / "blocks")
    assert given.users("2", "3")
    assert given.of("2") == [Entry("51", value=13883.0), Entry("52", value=11690.0)]


MIND = (
    "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782 N34694\tN55689-1 N35729-0\n"
    "2\tU91836\t11/12/2019 12:11:30 AM\t\tN20678-0 N39317-0\n"
    "3\tU13740\t11/15/2019 10:22:32 PM\tN42782  N1 \tN5-1\n"
)


def test_mind(tmp_path):
    path = write(tmp_path / "behaviors.tsv", MIND)
    given = through_all(path, columns="user=1,item=3,time=2", form="lists=blank", folder=tmp_path / "blocks")
    early, late = at(2019, 11, 11, 9, 5, 58), at(2019, 11, 15, 22, 22, 32)
    assert given.users("U13740")
    assert given.of("U13740") == [
        Entry("N55189", early), Entry("N34694", early), Entry("N42782", late), Entry("N1", late)
    ]  # fmt: skip
    assert (given.n_rows, given.rules) == (6, {"missing item": 1, "repeated pair": 1})


RETAILROCKET = (
    "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
    "1433221999827,257597,addtocart,248676,\n1433222000000,257597,transaction,355908,12\n"
    "1433222000001,257597,view,355908,\n1433224214164,992329,remove,1,\n1433224214165,992329,view,248676,\n"
)


def test_retailrocket(tmp_path):
    path = write(tmp_path / "events.csv", RETAILROCKET)
    given = through_all(path, kinds="view=0.1,addtocart=0.5,transaction=1", folder=tmp_path / "blocks")
    assert given.users("257597", "992329")
    assert given.of("257597") == [
        Entry("248676", 1433221999827 * 10**6, weight=0.5), Entry("355908", 1433222000000 * 10**6, weight=1.0)
    ]  # fmt: skip
    assert given.of("992329")[0].weight == pytest.approx(0.1)
    assert given.rules == {"other kind": 1, "repeated pair": 2}


def test_goodreads(tmp_path):
    rows = [
        {"user_id": "8842281e", "book_id": "24375664", "review_id": "5cd", "rating": 5, "is_read": True,
         "date_added": "Fri Aug 25 13:55:02 -0700 2017", "date_updated": "Mon Oct 09 08:55:59 -0700 2017",
         "read_at": "", "started_at": ""},
        {"user_id": "8842281e", "book_id": "18245960", "review_id": "dfd", "rating": 0, "is_read": False,
         "date_added": "Fri Mar 17 05:00:00 -0700 2017", "date_updated": "", "read_at": "", "started_at": ""},
    ]  # fmt: skip
    path = tmp_path / "goodreads_interactions.json.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    given = through_all(path, folder=tmp_path / "blocks")
    assert given.users("8842281e")
    assert given.of("8842281e") == [
        Entry("18245960", at(2017, 3, 17, 12), 0.0), Entry("24375664", at(2017, 8, 25, 20, 55, 2), 5.0)
    ]  # fmt: skip


def test_a_simulation_runs_by_the_same_options(tmp_path):
    lines = [
        f"{1433221332117 + 1000 * place},{user},{'buy' if place % 2 else 'view'},{2 * item + user % 2},"
        for user in range(20)
        for place, item in enumerate((user + step) % 10 for step in range(6))
    ]
    lines += ["1433221332117,5,remove,3,", "1433221332117,5,view,", "soon,99,buy,0,"]
    path = write(tmp_path / "events.csv", "timestamp,visitorid,event,itemid,transactionid\n" + "\n".join(lines))
    code, out, err = run_command(
        "simulate", "--data", path, "--kinds", "view=0.1,buy=1", "--silos", 2, "--epsilon", "inf",
        "--declared-users", 20, "--embedding-dim", 2, "--rounds", 2, "--split", "leave-last-out", "--json",
    )  # fmt: skip
    assert code == 0, err
    record = json_of(out)
    assert (record["n_users"], record["n_items"], record["n_interactions"]) == (21, 20, 121)
    assert record["data_findings"] == {"malformed row": 1, "other kind": 1}
