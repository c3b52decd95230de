"""New items get the vectors that their features foretell; known ones stay as they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.errors import DataError
from recsys_fed.models import new_items as module
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


def test_the_strength_follows_the_noise():
    """With little noise the dependence is taken almost as it is, with much of it items are near the average."""
    rng = np.random.default_rng(1)
    features, weights = rng.standard_normal((240, 6)), rng.standard_normal((6, 4))
    truth = features @ weights
    old = np.concatenate([np.arange(200), np.full(40, -1)])
    for noise, low, high in ((0.01, 0.0, 0.05), (30.0, 0.8, 1.3)):
        model = replace(model_of(features[:200], weights), vectors=torch.from_numpy(
            truth[:200] + noise * rng.standard_normal((200, 4))).float())  # fmt: skip
        found = with_new_items(model, sparse.csr_matrix(features), old, catalogue_hash="n").vectors[200:].numpy()
        average = model.vectors.mean(dim=0).numpy()
        error = np.square(found - truth[200:]).mean() / np.square(average - truth[200:]).mean()
        assert low <= error < high


def test_generalised_cross_validation_is_that_of_the_whole_smoother():
    rng = np.random.default_rng(2)
    features, values = rng.standard_normal((50, 8)), rng.standard_normal((50, 3))
    centred, targets = features - features.mean(axis=0), values - values.mean(axis=0)

    def plainly(r):
        smoother = centred @ np.linalg.solve(centred.T @ centred + r * np.eye(8), centred.T) + 1 / 50
        return np.square(targets - smoother @ targets).sum() / (1 - np.trace(smoother) / 50) ** 2

    strengths, basis = np.linalg.eigh(centred.T @ centred)
    power = np.square(basis.T @ centred.T @ targets).sum(axis=1)
    for r in module._GRID:
        found = module._criterion(r, strengths, power, total=np.square(targets).sum(), n_known=50)
        assert found == pytest.approx(plainly(r))
    best = module._best(strengths, basis.T @ centred.T @ targets, np.square(targets).sum(), 50)
    assert best == min(module._GRID, key=plainly)
