"""New items get the vectors that their features foretell; known ones stay as they are."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.errors import DataError
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.new_items import with_new_items


def model_of(features, weights):
    vectors = torch.from_numpy(features @ weights).float()
    return ItemEmbeddings(
        vectors=vectors, bias=torch.full((len(vectors),), 0.5), history_weights=torch.ones(len(vectors)),
        fold_in=FoldIn(kind="projection"), catalogue_hash="old",
    )  # fmt: skip


def test_a_linear_dependence_is_found_and_known_rows_are_kept():
    rng = np.random.default_rng(0)
    features, weights = rng.random((60, 5)), rng.standard_normal((5, 3))
    old = np.where(np.arange(60) % 3 == 0, -1, 0)
    old[old == 0] = rng.permutation(40)
    known = np.argsort(old)[20:]
    model = model_of(features[known], weights)
    found = with_new_items(model, sparse.csr_matrix(features), old, catalogue_hash="new", regularization=1e-8)
    np.testing.assert_allclose(found.vectors.numpy(), features @ weights, atol=1e-4)
    assert torch.equal(found.vectors[known], model.vectors)
    assert torch.allclose(found.bias, torch.tensor(0.5))
    assert found.catalogue_hash == "new"


def test_items_without_features_get_what_the_average_item_has_nearby():
    model = model_of(np.eye(4), np.eye(4)[:, :2])
    features = sparse.csr_matrix(np.vstack([np.eye(4), np.zeros((1, 4))]))
    found = with_new_items(model, features, np.array([0, 1, 2, 3, -1]), catalogue_hash="n", regularization=1e6)
    np.testing.assert_allclose(found.vectors[4].numpy(), model.vectors.mean(dim=0).numpy(), atol=1e-4)


@pytest.mark.parametrize("rows", [np.array([0, 1]), np.array([0, 9, -1]), np.array([-1, -1, -1])])
def test_catalogues_that_do_not_belong_to_the_model_are_refused(rows):
    model = model_of(np.eye(2), np.eye(2))
    with pytest.raises(DataError, match="Expected"):
        with_new_items(model, sparse.csr_matrix(np.eye(3)), rows, catalogue_hash="n")
