"""The choice of a recipe: never worse than the silo alone where it was measured, local where the model is useless."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.personalisation import choice as module
from recsys_fed.personalisation.choice import choose, choose_alone, choose_on, hold_out_items, split_folds
from recsys_fed.personalisation.silo_model import (
    AS_RELEASED,
    Recipe,
    Shown,
    fit_silo_model,
    released_scores,
    scorer_of,
)


def planted(n_users, *, n_items=48, groups=4, seed=0):
    rng = np.random.default_rng(seed)
    likely = np.where(np.arange(n_items) % groups == (np.arange(n_users) % groups)[:, None], 0.5, 0.05)
    return sparse.csr_matrix((rng.random((n_users, n_items)) < likely).astype(float))


def model_of(vectors):
    vectors = torch.as_tensor(np.asarray(vectors)).float()
    n_items = len(vectors)
    return ItemEmbeddings(
        vectors=vectors, bias=torch.zeros(n_items), history_weights=torch.ones(n_items),
        fold_in=FoldIn(kind="projection"), catalogue_hash="c",
    )  # fmt: skip


GOOD = model_of(np.linalg.svd(planted(3_000, seed=9).toarray(), full_matrices=False)[2][:4].T)
USELESS = model_of(np.linalg.qr(np.random.default_rng(5).standard_normal((48, 4)))[0])


def test_what_is_taken_is_the_best_or_the_silo_alone_and_never_worse_than_that():
    choice = choose(planted(40), GOOD, rng=np.random.default_rng(0))
    assert choice.recipe in (choice.alone, max(choice.validation, key=choice.validation.get))
    assert choice.validation[choice.recipe] >= choice.validation[choice.alone]
    assert choice.alone.name == "local-only"


def test_a_good_model_is_used_by_a_small_silo_and_a_useless_one_by_none():
    assert choose(planted(12), GOOD, rng=np.random.default_rng(0)).recipe.name != "local-only"
    found = choose(planted(400), USELESS, rng=np.random.default_rng(0))
    measured = {name: max(v for r, v in found.validation.items() if r.name == name) for name in
                ("user-only", "local-only", "silo-trusted")}  # fmt: skip
    assert measured["user-only"] < 0.7 * measured["local-only"]
    assert found.recipe.own_weight > 0


@pytest.mark.parametrize("train", [sparse.csr_matrix((0, 48)), sparse.csr_matrix((3, 48)), planted(1)])
def test_silos_that_cannot_measure_take_the_released_model(train):
    recipe = choose(train, GOOD, rng=np.random.default_rng(0)).recipe
    assert recipe.name == "user-only"
    scores = fit_silo_model(train, GOOD, recipe).scores(train)
    np.testing.assert_allclose(scores, released_scores(GOOD, train))


def test_a_bias_and_long_rows_that_mislead_are_left_out_by_the_choice():
    """Items of one half have a bias and rows of four times the length, whatever users of the other half like."""
    vectors = GOOD.vectors * torch.where(torch.arange(48) < 24, 4.0, 1.0)[:, None]
    misleading = replace(GOOD, vectors=vectors, bias=torch.where(torch.arange(48) < 24, 9.0, 0.0))
    found = choose(planted(60), misleading, rng=np.random.default_rng(0))
    ways = {recipe.shown: value for recipe, value in found.validation.items() if recipe.own_weight == 0}
    assert len(ways) == 6
    assert max(ways, key=ways.get) == Shown(row_exponent=0.5, bias=False)
    assert max(ways.values()) > 1.1 * ways[AS_RELEASED]
    plain = choose(planted(60), misleading, rng=np.random.default_rng(0), ways=(AS_RELEASED,))
    assert {recipe.shown for recipe in plain.validation} == {AS_RELEASED}


def test_scores_over_the_length_of_rows_are_the_formula():
    train = planted(9)
    vectors = np.vstack([np.zeros((1, 4)), GOOD.vectors.numpy()[1:]])
    model = replace(model_of(vectors), bias=torch.linspace(0, 1, 48))
    users = (train @ vectors) / np.sqrt(train.sum(axis=1))
    for shown in (Shown(row_exponent=0.25), Shown(row_exponent=0.5, bias=False)):
        lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-30) ** shown.row_exponent
        expected = np.asarray(users @ vectors.T) / lengths + shown.bias * model.bias.numpy()
        np.testing.assert_allclose(released_scores(model, train, shown=shown), expected, atol=1e-5)
    with pytest.raises(ConfigurationError, match="row_exponent"):
        Shown(row_exponent=1.0)


def test_weights_go_from_the_released_model_to_the_silos_own():
    train = planted(30)
    own = fit_silo_model(train, GOOD, Recipe(own_weight=math.inf))
    both = fit_silo_model(train, GOOD, Recipe(own_weight=1e9))
    little = fit_silo_model(train, GOOD, Recipe(own_weight=1e-9))
    np.testing.assert_allclose(both.scores(train) * (both.spreads[1] / 1e9), own.scores(train), atol=1e-6)
    np.testing.assert_allclose(little.scores(train) * little.spreads[0], released_scores(GOOD, train), atol=1e-6)
    assert torch.equal(scorer_of(own, train)(slice(3, 7)), torch.from_numpy(own.scores(train)[3:7]))


def test_the_same_seed_gives_the_same_choice():
    first, second = (choose(planted(25), GOOD, rng=np.random.default_rng(4)) for _ in range(2))
    assert first.validation == second.validation


@pytest.mark.parametrize("settings", [{"own_weight": -1.0}, {"own_weight": 1.0, "pull": -1.0},
                                      {"own_weight": 1.0, "regularization": 0.0}])  # fmt: skip
def test_recipes_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError):
        Recipe(**settings)


@pytest.mark.parametrize(("n_users", "n_folds", "n_measured"), [(40, 4, 40), (1_200, 1, 500)])
def test_each_user_is_asked_once_and_a_large_silo_asks_some(n_users, n_folds, n_measured):
    folds = split_folds(planted(n_users), rng=np.random.default_rng(0))
    assert len(folds) == n_folds
    assert sum(fold.n_measured for fold in folds) == pytest.approx(n_measured, abs=3)
    assert all(fold.n_users + fold.kept.shape[0] == n_users for fold in folds)


def test_nobody_is_asked_for_what_is_told():
    train = planted(30)
    kept, held = hold_out_items(train, share=0.2, rng=np.random.default_rng(1))
    assert kept.multiply(held).nnz == 0
    np.testing.assert_array_equal((kept + held).toarray(), train.toarray())
    assert held.nnz / train.nnz == pytest.approx(0.2, abs=0.05)


def test_blocks_of_users_do_not_change_what_is_measured(monkeypatch):
    folds = split_folds(planted(40), rng=np.random.default_rng(2))
    own = choose_alone(folds)
    whole = choose_on(folds, own, GOOD)
    monkeypatch.setattr(module, "_CELLS", 48 * 3)
    parts = choose_on(folds, own, GOOD)
    assert parts.recipe == whole.recipe
    assert parts.validation == pytest.approx(whole.validation)


def test_where_few_users_tell_nothing_apart_the_released_model_is_taken():
    train = sparse.csr_matrix(([1.0] * 8, ([0, 0, 1, 1, 2, 2, 3, 3], range(8))), shape=(4, 48))
    assert choose(train, model_of(np.zeros((48, 2))), rng=np.random.default_rng(0)).recipe.name == "user-only"


def test_a_gain_within_its_standard_error_is_not_taken(monkeypatch):
    folds = split_folds(planted(80), rng=np.random.default_rng(7))
    own = choose_alone(folds)
    n_users = len(own.per_user[own.recipe])
    noise = np.random.default_rng(0).permutation(np.resize([-0.2, 0.2], n_users))
    other = Recipe(own_weight=1.0, pull=1.0)
    for gain, taken in ((0.5, "local-only"), (2.0, "silo-trusted")):
        better = own.per_user[own.recipe] + noise + gain * noise.std() / np.sqrt(n_users)
        monkeypatch.setattr(module, "_measure", lambda *_, better=better: [(other, better)])
        assert choose_on(folds, own, GOOD).recipe.name == taken


def test_a_user_who_is_asked_is_not_among_those_who_are_fitted():
    """Memorising users must not pay: with no structure at all, nothing is better than the silo's popularity."""
    rng = np.random.default_rng(3)
    noise = sparse.csr_matrix((rng.random((200, 48)) < 0.2).astype(float))
    measured = choose(noise, USELESS, rng=rng).validation
    chance = 20 / (48 - 0.16 * 48)
    assert max(measured.values()) < 1.2 * chance


def test_what_is_measured_is_the_ndcg_of_the_headline_protocol():
    train = planted(50)
    fold = split_folds(train, rng=np.random.default_rng(6))[0]
    scores = released_scores(GOOD, fold.kept)
    expected = evaluate_ranking(
        lambda rows: torch.from_numpy(scores[rows]), train=fold.kept, test=fold.held, cutoffs=(20,)
    ).per_user["ndcg@20"]
    assert module._ndcg(scores, fold.kept, fold.held) == pytest.approx(expected)
