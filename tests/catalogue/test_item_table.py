"""Items from a file, and a catalogue that takes in those that it lacks."""

import numpy as np
import pytest

from recsys_fed.catalogue.items import Catalogue, drop_items, extend_catalogue
from recsys_fed.data.readers.products import read_items
from recsys_fed.errors import DataError, DataFormatError, DataNotFoundError


def catalogue(*ids, **columns):
    return Catalogue(item_ids=np.array(ids, dtype=object), **columns)


def test_a_table_is_read_as_text(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text('item,categories,title\n007,Drama|War,"A, B (1999)"\nNA,,\n', encoding="utf-8")
    found = read_items(path)
    assert found.item_ids.tolist() == ["007", "NA"]
    assert found.titles == ("A, B (1999)", "")
    assert found.categories == (("Drama", "War"), ())
    assert found.texts is None


def test_a_catalogue_is_read_as_it_is(tmp_path):
    path = tmp_path / "c.parquet"
    catalogue("a", titles=("x",)).save(path)
    assert read_items(path).titles == ("x",)


@pytest.mark.parametrize(
    ("text", "error"),
    [("id,title\na,x\n", DataFormatError), ("item,title\na,x,y\n", DataFormatError), ("", DataFormatError),
     ("item\na\na\n", DataError), ("item,title\n", DataError)],
)  # fmt: skip
def test_other_tables_are_refused(tmp_path, text, error):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(error, match="Expected"):
        read_items(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"nothing\.tsv"):
        read_items(tmp_path / "nothing.tsv")


def test_known_items_stay_in_place_and_as_they_are():
    old = catalogue("a", "b", titles=("A", "B"), categories=(("x",), ()))
    new = catalogue("c", "a", "d", titles=("C", "other", "D"), texts=("t", "t", "t"))
    found = extend_catalogue(old, new)
    assert found.item_ids.tolist() == ["a", "b", "c", "d"]
    assert found.titles == ("A", "B", "C", "D")
    assert found.categories == (("x",), (), (), ())
    assert found.texts is None


def test_without_and_extended_are_inverse():
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    whole = catalogue("a", "b", "c", titles=("A", "B", "C"), texts=("1", "2", "3"), text_vectors=vectors)
    part = drop_items(whole, np.array([False, False, True]))
    assert part.item_ids.tolist() == ["a", "b"]
    assert part.categories is None
    np.testing.assert_array_equal(part.text_vectors, vectors[:2])
    assert not extend_catalogue(part, catalogue("z", titles=("Z",))).text_vectors[2].any()
    assert extend_catalogue(part, whole).content_hash == whole.content_hash


def test_text_vectors_go_with_their_items():
    old = catalogue("a", "b", text_vectors=np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32))
    new = catalogue("b", "c", text_vectors=np.array([[9.0, 9.0], [2.0, 3.0]], dtype=np.float32))
    assert extend_catalogue(old, new).text_vectors.tolist() == [[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]
    assert extend_catalogue(old, catalogue("c")).text_vectors.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert drop_items(old, np.array([True, False])).text_vectors.tolist() == [[0.0, 1.0]]
    assert extend_catalogue(catalogue("a"), new).text_vectors is None
