"""Transitions equal plain loops over a user's places, and the next item of a cycle is the one that follows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ordered_lists import N_ITEMS, histories_in_order, users

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.sequential import SEQUENTIAL_BASELINES
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.transitions import count_transitions
from recsys_fed.personalisation import next_item
from recsys_fed.personalisation.next_item import NextRecipe, choose_next, fit_next_item_model, hold_out_latest


@settings(max_examples=60, deadline=None)
@given(users, st.sampled_from([0.0, 0.5, 3.0]))
def test_counts_are_those_of_a_loop_over_places(lists, window):
    expected = np.zeros((N_ITEMS, N_ITEMS))
    for items in lists:
        for p, first in enumerate(items):
            for r in range(p + 1, min(len(items), p + 2 + int(5.6 * window))):
                expected[first, items[r]] += 2.0 ** (-(r - p - 1) / window) if window else 1.0
    found = count_transitions(histories_in_order(lists), window=window)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)


def cycles(n_users=60, length=4):
    """Users walk through the items in a circle, each from another start; the next one is what follows."""
    return [[(start + step) % N_ITEMS for step in range(length)] for start in range(n_users)]


@pytest.mark.parametrize("name", ["markov", "transitions", "sasrec"])
def test_the_item_that_follows_comes_first(name):
    lists = cycles()
    histories = histories_in_order(lists)
    scores = SEQUENTIAL_BASELINES[name](histories)(slice(0, len(lists))).clone()
    scores[histories.users, histories.items.long()] = -torch.inf
    assert scores.argmax(1).tolist() == [(items[-1] + 1) % N_ITEMS for items in lists]


@pytest.mark.parametrize("name", SEQUENTIAL_BASELINES)
def test_blocks_of_users_are_parts_of_the_whole(name):
    histories = histories_in_order(cycles())
    score = SEQUENTIAL_BASELINES[name](histories)
    whole = score(slice(0, 60))
    assert whole.shape == (60, N_ITEMS)
    torch.testing.assert_close(torch.cat([score(slice(0, 7)), score(slice(7, 60))]), whole)


def test_histories_without_an_order_are_refused():
    with pytest.raises(ConfigurationError, match="order"):
        count_transitions(histories_of(histories_in_order([[1, 2]]).matrix()), window=1.0)


def released(vectors):
    return ItemEmbeddings(
        vectors=vectors, bias=torch.zeros(N_ITEMS), history_weights=torch.ones(N_ITEMS),
        fold_in=FoldIn(kind="projection", half_life=1.0), catalogue_hash="c",
    )  # fmt: skip


def test_a_silo_whose_own_transitions_say_it_all_takes_nothing_from_a_model_of_noise():
    histories = histories_in_order(cycles())
    model = released(torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(0)))
    choice = choose_next(hold_out_latest(histories, rng=np.random.default_rng(0)), model)
    assert choice.validation[choice.recipe] == choice.validation[choice.alone] == 1.0
    fitted = fit_next_item_model(histories, model, choice.recipe)
    scores = fitted.scores(histories)
    scores[histories.users, histories.items.long()] = -np.inf
    assert scores.argmax(1).tolist() == [(items[-1] + 1) % N_ITEMS for items in cycles()]


def test_what_is_taken_is_never_below_the_silo_alone_on_its_own_users():
    rng = np.random.default_rng(3)
    histories = histories_in_order([rng.permutation(N_ITEMS)[:4].tolist() for _ in range(50)])
    for seed in range(5):
        model = released(torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(seed)))
        choice = choose_next(hold_out_latest(histories, rng=rng), model)
        assert choice.validation[choice.recipe] >= choice.validation[choice.alone]
        assert choice.alone.name == "local-only"


ALONE, OTHER = NextRecipe(own_weight=math.inf), NextRecipe(own_weight=0.3)


def taken(n_users, *, other=0.0, alone=0.0, doubled=0.0):
    """Which recipe is taken, as gains over the favourite in standard errors of the difference say."""
    favourites = next_item._favourites(n_users)
    noise = np.resize([-0.2, 0.2], n_users)
    gains = {recipe: min(doubled * number, 1.0) for number, recipe in enumerate(favourites)}
    gains |= {OTHER: other, ALONE: alone}
    per_user = {
        recipe: 0.5 + (recipe != favourites[0]) * (noise + gain * noise.std(ddof=1) / np.sqrt(n_users))
        for recipe, gain in gains.items()
    }
    return next_item._take(per_user, favourites, ALONE), favourites


def test_the_favourite_of_the_rule_gives_way_to_what_is_better_by_two_standard_errors():
    for n_users in (60, 600):
        found, favourites = taken(n_users, other=1.5, alone=-1.0)
        assert found == favourites[0]
        assert found.own_weight == n_users / 600
        assert taken(n_users, other=2.5)[0] == OTHER
        assert taken(n_users, other=1.0, alone=2.5)[0] == ALONE
    # Of a few users a standard error says nothing.
    found, favourites = taken(20, other=2.5, alone=-1.0)
    assert found == favourites[0]


def test_what_is_worse_than_the_silo_alone_weighs_the_silo_more_until_it_is_not():
    found, favourites = taken(60, alone=0.9, doubled=0.5)
    assert found == favourites[2]
    assert found.own_weight == 4 * 60 / 600
    assert taken(60, alone=0.9)[0] == ALONE
    assert taken(20, alone=0.9)[0] == ALONE


def test_silos_of_nobody_and_of_users_with_one_item_take_the_released_model():
    model = released(torch.eye(N_ITEMS, 3))
    for lists in ([], [[1], [2]]):
        histories = histories_in_order(lists)
        choice = choose_next(hold_out_latest(histories, rng=np.random.default_rng(0)), model)
        assert choice.recipe.name == "user-only"
        assert fit_next_item_model(histories, model, choice.recipe).scores(histories).shape == (len(lists), N_ITEMS)
