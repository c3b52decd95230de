"""The silo's item model: EASE on its own, both forms alike, and nearer to the truth with a released model's help."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.baselines import ease
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.personalisation import item_model as module
from recsys_fed.personalisation.item_model import fit_item_model, through


def planted(n_users, *, n_items=40, groups=4, seed=0):
    rng = np.random.default_rng(seed)
    likely = np.where(np.arange(n_items) % groups == (np.arange(n_users) % groups)[:, None], 0.4, 0.08)
    return sparse.csr_matrix((rng.random((n_users, n_items)) < likely).astype(float))


def released(train, *, dim=4):
    right = np.linalg.svd(train.toarray(), full_matrices=False)[2][:dim]
    n_items = train.shape[1]
    return ItemEmbeddings(
        vectors=torch.from_numpy(right.T.copy()).float(), bias=torch.zeros(n_items),
        history_weights=torch.linspace(0.5, 1.5, n_items), fold_in=FoldIn(kind="projection"), catalogue_hash="c",
    )  # fmt: skip


def fit(train, seen, *, pull, regularization=3.0, **settings):
    rng = np.random.default_rng(0)
    return fit_item_model(train, seen, pull=pull, regularization=regularization, rng=rng, **settings)


def outside(scores, train):
    return np.asarray(scores)[train.toarray() == 0]


def test_without_pull_and_with_equal_rows_it_is_ease(monkeypatch):
    train = planted(60)
    monkeypatch.setattr(module, "HEAVY", 0.0)
    found = fit(train, through(released(train)), pull=0.0).scores(train)
    plain = ease(train, regularization=3.0)(slice(0, 60)).numpy()
    np.testing.assert_allclose(outside(found, train), outside(plain, train), rtol=1e-8)


@pytest.mark.parametrize("pull", [0.0, 2.0])
@pytest.mark.parametrize("n_users", [12, 100])
def test_both_forms_give_the_dense_formula(n_users, pull):
    """12 users are fewer than the 40 items, 100 are more; a small `largest_dense` forces the slim form."""
    train, seen = planted(n_users), through(released(planted(500, seed=1)))
    sizes = np.maximum(np.asarray(train.sum(axis=1)).ravel(), 1)
    x = train.toarray() * (sizes / sizes.mean())[:, None] ** -0.25
    gramian, projected = x.T @ x, x @ seen.seeing
    view = seen.back @ (projected.T @ projected) @ seen.back.T
    np.fill_diagonal(view, np.maximum(np.diag(gramian), np.diag(view)))
    inverse = np.linalg.inv(gramian + pull * view + 3.0 * np.eye(40))
    plain = outside(train @ (-inverse / np.diag(inverse)), train)
    model = fit(train, seen, pull=pull)
    assert (model.right is None) == (n_users == 100)
    np.testing.assert_allclose(outside(model.scores(train), train), plain, rtol=1e-7)
    # At most 39 users are kept below this bound, so it is the same users only where they are that few.
    if n_users == 12:
        slim = fit(train, seen, pull=pull, largest_dense=39)
        np.testing.assert_allclose(outside(slim.scores(train), train), plain, rtol=1e-7)


def test_the_released_view_helps_a_small_silo():
    everybody, mine = planted(2_000, seed=2), planted(16, seed=3)
    target = np.where(np.arange(40) % 4 == (np.arange(16) % 4)[:, None], 1.0, 0.0)
    seen = through(released(everybody, dim=4))
    alone, pulled = (fit(mine, seen, pull=pull).scores(mine) for pull in (0.0, 3.0))
    free = mine.toarray() == 0
    better = [np.corrcoef(found[free], target[free])[0, 1] for found in (alone, pulled)]
    assert better[1] > better[0] + 0.05


def test_large_silos_of_large_catalogues_use_some_users_only():
    train = planted(200)
    found = fit(train, through(released(train)), pull=0.0, largest_dense=30)
    assert found.left.shape == (40, 30)
    assert np.isfinite(found.scores(train)).all()


def test_settings_out_of_range_are_refused():
    train = planted(5)
    with pytest.raises(ConfigurationError, match="pull"):
        fit(train, through(released(train)), pull=-1.0)
    with pytest.raises(ConfigurationError, match="regularization"):
        fit(train, through(released(train)), pull=0.0, regularization=0.0)
