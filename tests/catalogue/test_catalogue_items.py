import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import DataError, DataFormatError, DataNotFoundError

text = st.text(st.characters(codec="utf-8"), max_size=6)


def _catalogue(ids, **columns):
    return Catalogue(item_ids=np.array(ids, dtype=object), **columns)


FULL = {"titles": ("A (1990)", "B"), "categories": (("x", "y"), ()), "texts": ("word", "")}


def test_rows_finds_known_ids_and_marks_unknown_ones():
    rows = _catalogue(["b", "a", "c"]).rows(["a", "nobody", "b", "a"])
    assert rows.dtype == np.int64
    assert rows.tolist() == [1, -1, 0, 1]


def test_rows_of_no_ids_is_empty():
    assert _catalogue(["a"]).rows([]).tolist() == []


@pytest.mark.parametrize(
    ("ids", "columns", "message"),
    [
        ([], {}, "at least one id"),
        (["a", "b", "a"], {}, "distinct item ids, got 'a' twice .again in row 2"),
        ([1, 2], {}, "item_ids to hold str, got int"),
        (["a", "b"], {"titles": ("only one",)}, "titles of 2 items, got 1"),
        (["a", "b"], {"texts": ("one", None)}, "texts to hold str, got NoneType as entry 1"),
        (["a"], {"categories": ((3,),)}, "categories to hold str, got int"),
        (["\ud800"], {}, "valid Unicode"),
    ],
)
def test_a_bad_catalogue_is_refused(ids, columns, message):
    with pytest.raises(DataError, match=message):
        _catalogue(ids, **columns)


def test_the_ids_cannot_be_changed_afterwards():
    ids = np.array(["a", "b"], dtype=object)
    catalogue = Catalogue(item_ids=ids)
    before = catalogue.content_hash
    ids[0] = "z"
    assert catalogue.rows(["a"]).tolist() == [0]
    with pytest.raises(ValueError, match="read-only"):
        catalogue.item_ids[0] = "z"
    assert catalogue.content_hash == before


@pytest.mark.parametrize(
    ("ids", "columns"),
    [
        (["b", "a"], FULL),
        (["a", "b"], {**FULL, "titles": ("A (1990)", "b")}),
        (["a", "b"], {**FULL, "categories": (("x",), ("y",))}),
        (["a", "b"], {**FULL, "categories": (("xy",), ())}),
        (["a", "b"], {**FULL, "texts": None}),
        (["a", "b"], {**FULL, "titles": FULL["texts"], "texts": FULL["titles"]}),
    ],
)
def test_every_public_column_and_the_order_are_in_the_hash(ids, columns):
    assert _catalogue(ids, **columns).content_hash != _catalogue(["a", "b"], **FULL).content_hash


@settings(max_examples=60, deadline=None)
@given(st.lists(text, min_size=1, max_size=4, unique=True), st.lists(text, min_size=1, max_size=4, unique=True))
def test_two_catalogues_have_the_same_hash_only_if_they_are_the_same(first, second):
    assert (_catalogue(first).content_hash == _catalogue(second).content_hash) == (first == second)


def test_moving_a_letter_between_neighbours_changes_the_hash():
    assert _catalogue(["ab", "c"]).content_hash != _catalogue(["a", "bc"]).content_hash
    assert (
        _catalogue(["1"], categories=(("a", "b"),)).content_hash
        != _catalogue(["1"], categories=(("ab",),)).content_hash
    )


@pytest.mark.parametrize("columns", [{}, FULL, {"categories": FULL["categories"]}])
def test_save_and_load_give_the_same_catalogue(tmp_path, columns):
    catalogue = _catalogue(["ä", "0"], **columns)
    catalogue.save(tmp_path / "new folder" / "items.parquet")
    loaded = Catalogue.load(tmp_path / "new folder" / "items.parquet")
    assert loaded.content_hash == catalogue.content_hash
    assert loaded.item_ids.tolist() == ["ä", "0"]
    assert (loaded.titles, loaded.categories, loaded.texts) == (
        catalogue.titles,
        catalogue.categories,
        catalogue.texts,
    )
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["items.parquet"]


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "items.parquet"
    _catalogue(["a", "b"], titles=("A", "B")).save(path)
    table = pq.read_table(path)
    swapped = table.take([1, 0]).replace_schema_metadata(table.schema.metadata)
    pq.write_table(swapped, path)
    with pytest.raises(DataFormatError, match="the file was changed"):
        Catalogue.load(path)


def test_a_file_that_is_no_catalogue_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError, match="found no file"):
        Catalogue.load(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("item_ids\n1\n")
    with pytest.raises(DataFormatError, match="could not read it"):
        Catalogue.load(tmp_path / "text.parquet")
    _catalogue(["a"]).save(tmp_path / "bare.parquet")
    pq.write_table(pq.read_table(tmp_path / "bare.parquet").replace_schema_metadata(None), tmp_path / "b.parquet")
    with pytest.raises(DataFormatError, match="content hash, got the columns item_ids"):
        Catalogue.load(tmp_path / "b.parquet")


def test_many_items_are_found_again():
    ids = np.array([f"item-{number}" for number in range(100_000)], dtype=object)
    catalogue = Catalogue(item_ids=ids, titles=tuple(ids))
    assert len(catalogue.content_hash) == 64
    assert (catalogue.rows(ids[::-1]) == np.arange(100_000)[::-1]).all()
