import json

import numpy as np
import pandas as pd
import pytest

from recsys_fed.data.silo import histories
from recsys_fed.data.sources import Request, read
from recsys_fed.errors import ConfigurationError, DataError, DataFormatError

U_DATA = "2\t10\t5\t881250949\n1\t9\t3\t891717742\n2\t9\t1\t878887116\n"
U_ITEM = (
    "9|Caf\xe9 (1995)|01-Jan-1995||http://a|0|1\n10|Heat (1994)|01-Jan-1994||http://b|1|1\n11|Unseen|||http://c|0|0\n"
)
RATINGS = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
MOVIES = "661::James and the Giant Peach (1996)::Animation|Children's\n1193::Caf\xe9 (1975)::Drama\n"


@pytest.fixture
def ml_100k(tmp_path):
    (tmp_path / "u.data").write_text(U_DATA)
    (tmp_path / "u.item").write_bytes(U_ITEM.encode("latin-1"))
    (tmp_path / "u.genre").write_text("Drama|0\nComedy|1\n\n")
    return tmp_path


@pytest.fixture
def ml_1m(tmp_path):
    (tmp_path / "ratings.dat").write_text(RATINGS)
    (tmp_path / "movies.dat").write_bytes(MOVIES.encode("latin-1"))
    return tmp_path


@pytest.fixture
def ml_parquet(tmp_path):
    frame = pd.DataFrame(
        {
            "user_id": [1, 1, 2, 2],
            "movie_id": [661, 1193, 661, 1193],
            "rating": [5, 4, 3, 2],
            "time_rank": [0, 1, 1, 0],
            "ncf_test": [False, True, True, False],
            "random90_test": [True, False, False, False],
        }
    )
    frame.to_parquet(tmp_path / "ratings.parquet")
    (tmp_path / "movies.dat").write_bytes(MOVIES.encode("latin-1"))
    (tmp_path / "dbpedia_abstracts.json").write_text(json.dumps({"661": "A boy."}))
    return tmp_path


@pytest.mark.parametrize("name", ["", "u.data"])
def test_100k_has_titles_and_genres_of_the_items_that_occur(ml_100k, name):
    dataset = read(Request(path=ml_100k / name))
    assert dataset.catalogue.item_ids.tolist() == ["9", "10"]
    assert dataset.catalogue.titles == ("Café (1995)", "Heat (1994)")
    assert dataset.catalogue.categories == (("Comedy",), ("Drama", "Comedy"))
    assert dataset.interactions.value.tolist() == [5.0, 3.0, 1.0]
    assert (dataset.interactions.time // 10**9).tolist() == [881250949, 891717742, 878887116]
    assert histories(dataset.interactions, dataset.catalogue).toarray().tolist() == [[1, 0], [1, 1]]
    assert "no redistribution" in dataset.note


def test_100k_without_item_files_is_ids_alone(ml_100k):
    (ml_100k / "u.item").unlink()
    assert read(Request(path=ml_100k)).catalogue.titles is None


def test_100k_rows_of_another_shape_are_named(ml_100k):
    (ml_100k / "u.data").write_text(U_DATA + "1\t2\t3\t4\t5\n")
    report = read(Request(path=ml_100k)).report
    assert [(f.rule, f.examples) for f in report.findings] == [("malformed row", ("line 4",))]
    (ml_100k / "u.data").write_text("1,2,3,4\n")
    with pytest.raises(DataFormatError, match=r"none is left.(.|\n)*malformed row: 1 rows dropped .line 1."):
        read(Request(path=ml_100k))
    (ml_100k / "u.data").write_text(U_DATA)
    (ml_100k / "u.item").write_text("9|Heat|x|0\n")
    with pytest.raises(DataFormatError, match=r"7 fields in line 1 of .*u.item, got 4"):
        read(Request(path=ml_100k))


@pytest.mark.parametrize("name", ["", "ratings.dat"])
def test_1m_is_read_as_published(ml_1m, name):
    dataset = read(Request(path=ml_1m / name))
    assert dataset.catalogue.item_ids.tolist() == ["661", "1193"]
    assert dataset.catalogue.titles == ("James and the Giant Peach (1996)", "Café (1975)")
    assert dataset.catalogue.categories == (("Animation", "Children's"), ("Drama",))
    assert dataset.interactions.item.tolist() == [1, 0, 1]
    assert (dataset.interactions.time // 10**9).tolist() == [978300760, 978302109, 978298413]
    assert dataset.is_test is None


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("1,1193,5,978300760\n", "none of them|it is none"),
        ("", "0 rows read"),
        ("1::\x00\x01\n", "none is left"),
    ],
)
def test_1m_rows_of_another_shape_are_named(ml_1m, ratings, message):
    (ml_1m / "ratings.dat").write_text(ratings)
    with pytest.raises(DataFormatError, match=message):
        read(Request(path=ml_1m))


def test_1m_short_and_broken_rows_are_findings(ml_1m):
    broken = "3::661\n4::661::good::9\n::661::5::9\n3::661::5::9::1\n3:x:661::5::9\n"
    (ml_1m / "ratings.dat").write_text(RATINGS + broken)
    report = read(Request(path=ml_1m)).report
    assert {finding.rule: finding.examples for finding in report.findings} == {
        "malformed row": ("line 4", "line 7", "line 8"),
        "missing user": ("line 6",),
    }
    assert {note.rule: note.examples for note in report.notes} == {"unreadable value": ("line 5",)}


def test_1m_item_rows_of_another_shape_are_named(ml_1m):
    (ml_1m / "movies.dat").write_text("661::James::Drama\n1193::Café\n")
    with pytest.raises(DataFormatError, match=r"3 fields in line 2 of .*movies.dat, got 2"):
        read(Request(path=ml_1m))


def test_every_one_of_many_rows_of_1m_is_read(tmp_path):
    rng = np.random.default_rng(0)
    n = 100_003
    pairs = rng.choice(6_040 * 3_706, n, replace=False)
    columns = np.column_stack([pairs // 3_706 + 1, pairs % 3_706 + 1, rng.integers(1, 6, n)]).tolist()
    (tmp_path / "ratings.dat").write_text("".join(f"{u}::{i}::{r}::978300760\n" for u, i, r in columns))
    dataset = read(Request(path=tmp_path))
    assert len(dataset.interactions) == n
    assert dataset.interactions.value.sum() == sum(r for _, _, r in columns)


@pytest.mark.parametrize(
    ("split", "is_test"),
    [(None, None), ("random90", [True, False, False, False]), ("ncf", [False, True, True, False])],
)
def test_parquet_gives_the_split_that_is_asked_for(ml_parquet, split, is_test):
    dataset = read(Request(path=ml_parquet, split=split))
    assert (None if dataset.is_test is None else dataset.is_test.tolist()) == is_test
    assert dataset.catalogue.texts == ("A boy.", "")
    assert dataset.interactions.time.tolist() == [0, 1, 1, 0]


def test_parquet_split_follows_the_rows_that_are_kept(ml_parquet):
    frame = pd.read_parquet(ml_parquet / "ratings.parquet")
    frame.loc[1, "time_rank"] = -1
    frame.to_parquet(ml_parquet / "ratings.parquet")
    dataset = read(Request(path=ml_parquet, split="ncf"))
    assert dataset.is_test.tolist() == [False, True, False]


def test_a_split_that_does_not_exist_is_refused(ml_parquet, tmp_path):
    with pytest.raises(ConfigurationError, match=r"one of ncf, random90 for .*, got 'best'"):
        read(Request(path=ml_parquet, split="best"))
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "u.data").write_text(U_DATA)
    with pytest.raises(ConfigurationError, match=r"no #split for .*100K.*, got 'ncf'"):
        read(Request(path=tmp_path / "only", split="ncf"))
    with pytest.raises(ConfigurationError, match="has fixed columns, got user"):
        read(Request(path=tmp_path / "only", columns={"user": "u"}))


def test_a_split_whose_column_is_missing_is_named(ml_parquet):
    frame = pd.read_parquet(ml_parquet / "ratings.parquet")
    frame.drop(columns="ncf_test").to_parquet(ml_parquet / "ratings.parquet")
    with pytest.raises(DataFormatError, match="column ncf_test in"):
        read(Request(path=ml_parquet, split="ncf"))


@pytest.mark.parametrize("content", ["[1, 2]", '{"661": 5}', "{", b"\xff"])
def test_texts_of_another_shape_are_refused(ml_parquet, content):
    path = ml_parquet / "dbpedia_abstracts.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match="dbpedia_abstracts"):
        read(Request(path=ml_parquet))


def test_the_real_100k_has_its_published_counts(real):
    dataset = read(Request(path=real("ml-100k")))
    counts = (dataset.interactions.n_users, dataset.catalogue.n_items, len(dataset.interactions))
    assert counts == (943, 1_682, 100_000)
    assert dataset.catalogue.titles[0] == "Toy Story (1995)"
    assert dataset.catalogue.categories[0] == ("Animation", "Children's", "Comedy")
    assert dataset.report.findings == ()


def test_the_real_1m_has_its_published_counts_and_splits(real):
    dataset = read(Request(path=real("ml-1m"), split="random90"))
    counts = (dataset.interactions.n_users, dataset.catalogue.n_items, len(dataset.interactions))
    assert counts == (6_040, 3_706, 1_000_209)
    assert dataset.is_test.sum() == 99_892
    assert all(dataset.catalogue.titles)
    assert sum(map(bool, dataset.catalogue.texts)) > 3_000
    assert dataset.report.findings == ()
