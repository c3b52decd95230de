"""The choice of a recipe: never worse than the silo alone where it was measured, local where the model is useless."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.personalisation.choice import RECIPES, Choice, choose
from recsys_fed.personalisation.silo_model import Recipe, fit_silo_model, released_scores, scorer_of


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


def test_what_is_taken_is_the_best_and_never_worse_than_the_silo_alone():
    choice = choose(planted(40), GOOD, rng=np.random.default_rng(0))
    assert choice.validation[choice.recipe] == max(choice.validation.values())
    assert choice.validation[choice.recipe] >= choice.validation[choice.best_local]
    assert choice.best_local.name == "local-only"


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
    scores = fit_silo_model(train, GOOD, recipe, rng=np.random.default_rng(0)).scores(train)
    np.testing.assert_allclose(scores, released_scores(GOOD, train))


def test_weights_go_from_the_released_model_to_the_silos_own():
    train, rng = planted(30), np.random.default_rng(0)
    own = fit_silo_model(train, GOOD, Recipe(own_weight=math.inf), rng=rng)
    both = fit_silo_model(train, GOOD, Recipe(own_weight=1e9), rng=rng)
    little = fit_silo_model(train, GOOD, Recipe(own_weight=1e-9), rng=rng)
    np.testing.assert_allclose(both.scores(train) * (both.spreads[1] / 1e9), own.scores(train), atol=1e-6)
    np.testing.assert_allclose(little.scores(train) * little.spreads[0], released_scores(GOOD, train), atol=1e-6)
    assert torch.equal(scorer_of(own, train)(slice(3, 7)), torch.from_numpy(own.scores(train)[3:7]))


def test_the_same_seed_gives_the_same_choice():
    first, second = (choose(planted(25), GOOD, rng=np.random.default_rng(4)) for _ in range(2))
    assert first.validation == second.validation


def test_recipes_without_the_silo_alone_have_no_best_local():
    with pytest.raises(ConfigurationError, match="own_weight = inf"):
        _ = Choice(recipe=RECIPES[0], validation={RECIPES[0]: 1.0}).best_local
