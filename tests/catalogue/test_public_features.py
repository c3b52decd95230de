import numpy as np
import pytest

from recsys_fed.catalogue.features import public_features, tf_idf
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError


def _catalogue(n, **columns):
    return Catalogue(item_ids=np.array([str(i) for i in range(n)], dtype=object), **columns)


def test_a_catalogue_of_ids_alone_has_no_features():
    assert public_features(_catalogue(3)) is None
    assert public_features(_catalogue(2, titles=("", ""), categories=((), ()))) is None


def test_categories_are_multi_hot_rows_of_equal_norm():
    features = public_features(_catalogue(3, categories=(("b", "a"), ("a",), ())), category_weight=2.0)
    assert features.dtype == np.float32
    root = np.sqrt(2.0)
    assert features.toarray() == pytest.approx(np.array([[root, root], [2.0, 0.0], [0.0, 0.0]]))


def test_a_category_named_twice_counts_once():
    features = public_features(_catalogue(1, categories=(("a", "a"),)))
    assert features.toarray().tolist() == [[1.0]]


def test_decades_are_read_from_the_end_of_the_title():
    titles = (
        "One (1994)",
        "Two (1999) ",
        "Three (2003)",
        "2001: A Space Odyssey",
        "(1950) Four",
        "Five (1234)",
    )
    features = public_features(_catalogue(6, titles=titles), decade_weight=1.0, text_weight=0.0)
    assert features.toarray().tolist() == [[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]


def test_word_weights_are_the_formula():
    documents = ["apple apple pear", "pear", "apple plum", "kiwi of the fig", "pear", "fig 12345"]
    matrix = tf_idf(documents, max_terms=10, max_share=0.5).toarray()
    # Left are apple (df 2), fig (df 2), pear (df 3), in alphabetical order; plum, kiwi, the are in one only.
    apple, pear = (1 + np.log(2)) * (1 + np.log(6 / 2)), 1 + np.log(6 / 3)
    norm = np.hypot(apple, pear)
    assert matrix.shape == (6, 3)
    assert matrix[0] == pytest.approx([apple / norm, 0, pear / norm], rel=1e-6)
    assert matrix[3] == pytest.approx([0, 1, 0])
    assert np.linalg.norm(matrix, axis=1) == pytest.approx(np.ones(6))


def test_a_word_of_most_documents_is_left_out():
    matrix = tf_idf(["film cat", "film cat", "film dog", "film dog", "film", "film"], max_terms=9, max_share=0.4)
    assert matrix.shape == (6, 2)
    assert matrix[5].nnz == 0


def test_the_most_frequent_words_stay_and_ties_go_by_the_alphabet():
    documents = ["zebra yak", "zebra yak", "zebra ant", "ant bee", "bee", "", "", "", "", ""]
    matrix = tf_idf(documents, max_terms=2)
    assert (matrix[:, 1].toarray().ravel() > 0).tolist() == [True] * 3 + [False] * 7
    assert (matrix[:, 0].toarray().ravel() > 0).tolist() == [False, False, True, True] + [False] * 6


def test_features_of_the_same_items_are_equal_whatever_their_order():
    titles = tuple(f"{word} number {word}" for word in ("red", "blue", "red", "green", "blue", "grey", "pink"))
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    features = public_features(_catalogue(7, titles=titles)).toarray()
    shuffled = public_features(_catalogue(7, titles=tuple(titles[i] for i in order))).toarray()
    assert (shuffled == features[order]).all()


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigurationError, match="category_weight >= 0, got -1"):
        public_features(_catalogue(1), category_weight=-1.0)
