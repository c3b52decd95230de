import numpy as np
import pytest
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.silo import SiloDataset, histories, silo_dataset
from recsys_fed.errors import ConfigurationError, DataError


@pytest.fixture
def catalogue():
    return Catalogue(item_ids=np.array(["2", "0", "nobody has it"], dtype=object))


def test_histories_are_sorted_ones_in_catalogue_columns(make_interactions, catalogue):
    matrix = histories(make_interactions([1, 1, 0], [0, 2, 2]), catalogue)
    assert matrix.dtype == np.float32
    assert matrix.has_sorted_indices
    assert matrix.has_canonical_format
    assert matrix.toarray().tolist() == [[1, 0, 0], [1, 1, 0]]


def test_unknown_items_are_counted_and_left_out(make_interactions, catalogue):
    silo = silo_dataset(make_interactions([0, 0, 1, 1], [1, 0, 1, 3]), catalogue)
    assert silo.unknown_items == 3
    assert silo.histories.toarray().tolist() == [[0, 1, 0], [0, 0, 0]]
    assert silo.user_ids.tolist() == ["0", "1"]


def test_repeated_interactions_count_once(make_interactions, catalogue):
    assert histories(make_interactions([0, 0], [2, 2]), catalogue).toarray().tolist() == [[1, 0, 0]]


def test_train_and_test_have_the_same_rows(make_interactions, catalogue):
    interactions = make_interactions([0, 1], [0, 2])
    mask = np.array([True, False])
    assert histories(interactions, catalogue, mask).toarray().tolist() == [[0, 1, 0], [0, 0, 0]]
    assert histories(interactions, catalogue, ~mask).toarray().tolist() == [[0, 0, 0], [1, 0, 0]]


def test_min_value_keeps_what_reaches_it_and_every_interaction_counts_one(make_interactions, catalogue):
    interactions = make_interactions([0, 0, 0], [0, 1, 2], value=[4, 5, 3])
    silo = silo_dataset(interactions, catalogue, min_value=4)
    assert silo.histories.toarray().tolist() == [[0, 1, 0]]
    assert silo.unknown_items == 1
    with pytest.raises(ConfigurationError, match="without values, got 4"):
        histories(make_interactions([0], [0]), catalogue, min_value=4)


def test_an_empty_silo_is_a_silo(make_interactions, catalogue):
    silo = silo_dataset(make_interactions([], []), catalogue)
    assert silo.histories.shape == (0, 3)
    assert (silo.histories.nnz, silo.unknown_items) == (0, 0)


def test_one_user_with_every_item(make_interactions):
    interactions = make_interactions([0] * 5, list(range(5)))
    matrix = histories(interactions, Catalogue(item_ids=interactions.item_ids))
    assert matrix.toarray().tolist() == [[1.0] * 5]


def test_a_catalogue_of_one_item(make_interactions):
    catalogue = Catalogue(item_ids=np.array(["1"], dtype=object))
    silo = silo_dataset(make_interactions([0, 1], [0, 1]), catalogue)
    assert silo.histories.toarray().tolist() == [[0], [1]]
    assert silo.unknown_items == 1


def test_each_history_needs_its_user():
    with pytest.raises(DataError, match="2 user ids, got 1"):
        SiloDataset(histories=sparse.csr_matrix((2, 3)), user_ids=np.array(["a"], dtype=object))
