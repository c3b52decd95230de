"""The silo's item model: EASE on its own, all forms alike, and nearer to the truth with a released model's help."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.baselines import ease
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.personalisation import silo_model
from recsys_fed.personalisation.silo_model import fit_item_model, silo_pairs, view_released


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


def fit(train, seen, *, pull, regularization=3.0, **form):
    return fit_item_model(silo_pairs(train, **form), seen, pull=pull, regularization=regularization)


def outside(scores, train):
    return np.asarray(scores)[train.toarray() == 0]


def test_without_pull_and_with_equal_rows_it_is_ease(monkeypatch):
    train = planted(60)
    monkeypatch.setattr(silo_model, "HEAVY", 0.0)
    monkeypatch.setattr(silo_model, "DISCOUNT", 0.0)
    found = fit(train, view_released(released(train)), pull=0.0).scores(train)
    plain = ease(train, regularization=3.0)(slice(0, 60)).numpy()
    np.testing.assert_allclose(outside(found, train), outside(plain, train), atol=1e-6)


def dense_formula(train, seen, *, pull, regularization=3.0):
    sizes = np.maximum(np.asarray(train.sum(axis=1)).ravel(), 1)
    x = train.toarray() * (sizes / sizes.mean())[:, None] ** -0.25
    gramian, projected = x.T @ x, x @ seen.seeing
    view = seen.back @ (projected.T @ projected) @ seen.back.T
    np.fill_diagonal(view, np.maximum(np.diag(gramian), np.diag(view)))
    inverse = np.linalg.inv(gramian + pull * view + regularization * np.eye(train.shape[1]))
    discounted = -inverse / np.diag(inverse) / (np.diag(gramian) + 5.0) ** 0.15
    return outside(train @ discounted, train)


FORMS = [
    (100, {}, "dense"),  # as many users as items, or more
    (12, {}, "users"),
    (12, {"largest_dense": 39}, "users"),  # a large catalogue, few users
    (100, {"largest_dense": 39, "few_users": 100}, "users"),
]


@pytest.mark.parametrize("pull", [0.0, 2.0])
@pytest.mark.parametrize(("n_users", "form", "held"), FORMS)
def test_every_form_gives_the_dense_formula(n_users, form, held, pull):
    train, seen = planted(n_users), view_released(released(planted(500, seed=1)))
    pairs = silo_pairs(train, **form)
    assert (pairs.dense is not None) == (held == "dense")
    model = fit(train, seen, pull=pull, **form)
    np.testing.assert_allclose(
        outside(model.scores(train), train), dense_formula(train, seen, pull=pull), rtol=2e-4, atol=1e-5
    )


@pytest.mark.parametrize(("n_users", "form", "held"), FORMS)
def test_the_weights_are_what_a_history_adds_up(n_users, form, held):
    train, seen = planted(n_users), view_released(released(planted(500, seed=1)))
    model = fit(train, seen, pull=1.0, **form)
    np.testing.assert_allclose(train @ model.weights(), model.scores(train), rtol=1e-3, atol=1e-5)


def test_the_low_rank_form_keeps_how_often_items_occur_and_nears_the_whole():
    train, seen = planted(300), view_released(released(planted(500, seed=1)))
    whole = dense_formula(train, seen, pull=1.0)
    likeness = []
    for rank in (3, 12, 38):
        form = {"largest_dense": 39, "few_users": 10, "largest_rank": rank}
        pairs = silo_pairs(train, **form)
        assert pairs.dense is None
        assert pairs.factor.shape == (40, rank)
        assert (np.square(pairs.factor).sum(axis=1) <= pairs.occurrence + 1e-9).all()
        found = outside(fit(train, seen, pull=1.0, **form).scores(train), train)
        likeness.append(np.corrcoef(found, whole)[0, 1])
    assert 0.7 < likeness[0] < likeness[1] < likeness[2]
    assert likeness[2] > 0.95


def test_the_low_rank_form_is_the_same_each_time():
    train = planted(300)
    first, second = (silo_pairs(train, largest_dense=39, few_users=10, largest_rank=5).factor for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_released_view_helps_a_small_silo():
    everybody, mine = planted(2_000, seed=2), planted(16, seed=3)
    target = np.where(np.arange(40) % 4 == (np.arange(16) % 4)[:, None], 1.0, 0.0)
    seen = view_released(released(everybody, dim=4))
    alone, pulled = (fit(mine, seen, pull=pull).scores(mine) for pull in (0.0, 3.0))
    free = mine.toarray() == 0
    better = [np.corrcoef(found[free], target[free])[0, 1] for found in (alone, pulled)]
    assert better[1] > better[0] + 0.05


def test_settings_out_of_range_are_refused():
    train = planted(5)
    with pytest.raises(ConfigurationError, match="pull"):
        fit(train, view_released(released(train)), pull=-1.0)
    with pytest.raises(ConfigurationError, match="regularization"):
        fit(train, view_released(released(train)), pull=0.0, regularization=0.0)
    with pytest.raises(ConfigurationError, match="largest_rank"):
        silo_pairs(train, largest_rank=0)


def test_a_pull_needs_a_released_model():
    with pytest.raises(ConfigurationError, match="released"):
        fit_item_model(silo_pairs(planted(5)), None, pull=1.0, regularization=1.0)
